"""Tell Pyro about the parameters of a plain ``nn.Module``."""

from __future__ import annotations

import warnings
import weakref

import pyro
from pyro.distributions import constraints
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

from pyro_dvae.errors import InputError


def register(name: str, module: nn.Module) -> None:
    """Make the parameters of ``module`` visible to Pyro under ``name``, as ``pyro.module`` does.

    Works in both of Pyro's settings. With the param store, a parameter that the store already holds under
    that name replaces the module's own (Pyro's rule; a warning says so). With ``module_local_params`` the
    store is left alone and the parameters are only announced, which also lets stock ``SVI`` find them.
    A parameter that another statement registered before keeps its name.
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
    for full_name, _, parameter in wanted:
        _check_shape(full_name, parameter)
    for full_name, key, parameter in wanted:
        _store(full_name, key, parameter, module)


def _announce(full_name: str, parameter: Tensor) -> None:
    # What pyro.param does to an unconstrained parameter, less the store; SVI reads the reference.
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    statement = effectful(type="param")(lambda *_, **__: parameter)
    statement(full_name, parameter, constraint=constraints.real, name=full_name)


def _check_shape(full_name: str, parameter: Tensor) -> None:
    # Before anything is stored or replaced, so that a refused module stays as it was.
    store = pyro.get_param_store()
    if full_name not in store or store.param_name(parameter) is not None:
        return
    value = store[full_name]
    if value.shape != parameter.shape:
        raise InputError(
            f"{full_name}: Pyro's param store holds an earlier parameter of shape {tuple(value.shape)}, the "
            f"module has {tuple(parameter.shape)}; call pyro.clear_param_store() before a new model"
        )


def _store(full_name: str, key: str, parameter: Tensor, module: nn.Module) -> None:
    store = pyro.get_param_store()
    earlier = full_name in store
    value = pyro.param(store.param_name(parameter) or full_name, parameter)
    if value is parameter or store.param_name(parameter) is not None:
        return
    if earlier:  # else the store made a contiguous copy of a parameter in another memory format
        warnings.warn(
            f"{full_name} takes its value from Pyro's param store, where an earlier module of that name left "
            "it; call pyro.clear_param_store() for a fresh start",
            stacklevel=2,
        )
    owner, _, leaf = key.rpartition(".")
    module.get_submodule(owner)._parameters[leaf] = value
