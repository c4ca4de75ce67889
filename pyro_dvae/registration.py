"""Registers the parameters of a plain ``nn.Module`` with Pyro."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyro
from pyro.distributions import constraints
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pyro_dvae.errors import InputError, warn
from pyro_dvae.internals import leaves_in_store, place_parameter

if TYPE_CHECKING:
    from typing_extensions import Self

# The parameters that modules of this process have put into a param store, with their requested names.
_asked: WeakIdKeyDictionary = WeakIdKeyDictionary()


class _Itself:
    """A callable that returns the unconstrained parameter, as Pyro expects; here, the same parameter.

    Pyro uses a weak reference, which would prevent pickling of a module. A pickled or copied reference is
    empty until Pyro or :func:`register` sees the copy.
    """

    def __init__(self, parameter: Tensor | None = None) -> None:
        self._reference = None if parameter is None else weakref.ref(parameter)

    def __call__(self) -> Tensor | None:
        return None if self._reference is None else self._reference()

    def __reduce__(self) -> tuple[type[_Itself], tuple[()]]:
        return _Itself, ()


class Module(nn.Module):
    """A module that can be pickled and copied even if Pyro has seen its parameters.

    ``made_of`` has the positional and keyword arguments of its constructor, which can rebuild it.
    """

    made_of: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    __signature__: inspect.Signature

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the class have its constructor's signature, which ``__new__`` hides on Python 3.10."""
        super().__init_subclass__(**kwargs)
        constructor: Any = cls.__init__
        shown = inspect.signature(constructor)
        cls.__signature__ = shown.replace(parameters=list(shown.parameters.values())[1:])

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments."""
        made = super().__new__(cls)
        object.__setattr__(made, "made_of", (args, kwargs))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with references that can be pickled."""
        make_picklable(self.parameters())
        return self.__dict__


def make_picklable(parameters: Iterable[Tensor]) -> None:
    """Replace Pyro's weak references on unconstrained parameters, which cannot be pickled."""
    for parameter in parameters:
        if isinstance(getattr(parameter, "unconstrained", None), weakref.ref):
            parameter.unconstrained = _Itself(parameter)  # type: ignore[attr-defined]


def register(name: str, module: nn.Module, *, by_name: bool = False) -> None:
    """Make the parameters of ``module`` visible to Pyro under ``name``, as ``pyro.module`` does.

    This works with both of Pyro's settings. With the param store, each module keeps its own parameters: if
    another module of this process has the name, a number is appended (``decoder$$$weight#2``). Values that
    were loaded into the store replace the module's own, with a warning, as in Pyro. With
    ``module_local_params`` the store does not change; the parameters are only announced, so that Pyro's
    ``SVI`` finds them. A parameter that another statement registered before keeps its name.

    :param by_name: use the store's parameter of that name even if another module put it there, as in
        ``pyro.module``: for a module that a program may create in each call.
    """
    wanted = [
        (param_with_module_name(name, key), key, parameter)
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    if pyro.settings.get("module_local_params"):
        for full_name, _, parameter in wanted:
            _announce(full_name, parameter)
        return
    names = [_name_for(full_name, parameter, by_name) for full_name, _, parameter in wanted]
    for stored, (_, _, parameter) in zip(names, wanted, strict=True):
        _check_shape(stored, parameter)
    for stored, (full_name, key, parameter) in zip(names, wanted, strict=True):
        _store(stored, full_name, key, parameter, module)


def asked_name(name: str, leaf: Tensor) -> str:
    """Return the requested name of a parameter (it may differ from its name in the store), else ``name``."""
    return str(_asked.get(leaf, name))


def _announce(full_name: str, parameter: Tensor) -> None:
    # The same as pyro.param for an unconstrained parameter, without the store; SVI reads the reference.
    parameter.unconstrained = _Itself(parameter)  # type: ignore[attr-defined]
    statement = effectful(type="param")(lambda *_, **__: parameter)
    statement(full_name, parameter, constraint=constraints.real, name=full_name)


def _name_for(full_name: str, parameter: Tensor, by_name: bool) -> str:
    store = pyro.get_param_store()
    if (present := store.param_name(parameter)) is not None:
        return present
    name, number = full_name, 1
    while not by_name and name in store and leaves_in_store()[name] in _asked:
        number += 1
        name = f"{full_name}#{number}"
    return name


def _check_shape(name: str, parameter: Tensor) -> None:
    # Before any change, so that a refused module does not change.
    store = pyro.get_param_store()
    if name not in store or store.param_name(parameter) is not None:
        return
    value = store[name]
    if value.shape != parameter.shape:
        raise InputError(
            f"{name}: Pyro's param store holds an earlier parameter of shape {tuple(value.shape)}, the "
            f"module has {tuple(parameter.shape)}; call pyro.clear_param_store() before a new model"
        )


def _store(name: str, full_name: str, key: str, parameter: Tensor, module: nn.Module) -> None:
    store = pyro.get_param_store()
    earlier, known = name in store, store.param_name(parameter) is not None
    value = pyro.param(name, parameter)
    if value.unconstrained() is value:  # else another statement has registered a constrained parameter
        value.unconstrained = _Itself(value)
    if known:
        return
    _asked[value] = full_name
    if value is parameter:
        return
    if earlier:  # else the store has a contiguous copy of a parameter in another memory format
        warn(
            f"{full_name} takes its value from Pyro's param store, where an earlier module of that name left "
            "it; call pyro.clear_param_store() for a fresh start",
        )
    place_parameter(module, key, value)
