"""The param statements of a run, and whose parameters Pyro's store returns to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_dvae.internals import leaves_in_store


class Statement(NamedTuple):
    """A param statement: its name, the leaf that Pyro returns, and the tensor that the program gives."""

    name: str
    leaf: Tensor
    given: Tensor | None


class Statements(Messenger):
    """Keeps all param statements, while a trace would keep only the last of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Statement] = []

    def _pyro_post_param(self, message: dict[str, Any]) -> None:
        if isinstance(message["value"], Tensor):
            _, *given = message["args"] or (None,)
            leaf = unconstrained(message["value"])
            self.all.append(Statement(message["name"], leaf, given[0] if given else None))


def unconstrained(value: Tensor) -> Tensor:
    """Return the leaf of a param statement's value."""
    leaf: Tensor | None = value.unconstrained() if hasattr(value, "unconstrained") else None
    return value if leaf is None else leaf


def why_untrained(statements: Iterable[Statement], used: Iterable[Tensor]) -> str:
    """Return why a module would not be trained, with the remedy; empty if all modules own their leaves.

    ``pyro.module`` and ``PyroModule`` give their own tensors to Pyro, which returns the one of that name in
    its store. The module keeps computing with its own, and an optimizer changes the other.

    :param used: the parameters that the modules compute with.
    """
    held = {id(leaf) for leaf in used}
    for name, leaf, given in statements:
        if given is leaf or not isinstance(given, nn.Parameter) or id(given) not in held:
            continue
        if id(leaf) in held:
            return (
                f"two modules have a parameter {name!r}, and Pyro trains that of one; give the modules other "
                "names, or, if they are PyroModules, call pyro.settings.set(module_local_params=True)"
            )
        if not given.is_contiguous():
            return (
                f"Pyro trains a contiguous copy of parameter {name!r}, not the module's own; convert the "
                "module, .to(memory_format=torch.contiguous_format)"
            )
        return (
            f"Pyro's param store has a parameter {name!r} of an earlier module, and trains that in place of "
            "this module's; call pyro.clear_param_store() before a new model"
        )
    return ""


class Inherited:
    """Parameters that a ``PyroModule`` takes from Pyro's store in a run, where an earlier one left them.

    So does an AutoGuide of Pyro that is set up in its first run.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        own = {id(leaf) for module in modules.values() for leaf in module.parameters()}
        self._earlier = {id(leaf) for leaf in leaves_in_store().values()} - own

    def note(self) -> str:
        """Return what to do about it after the run; empty without such a parameter."""
        for prefix, root in self._modules.items():
            for path, part in root.named_modules(prefix=prefix):
                if isinstance(part, PyroModule):
                    for name, leaf in part.named_parameters(path, recurse=False):
                        if id(leaf) in self._earlier:
                            return (
                                f"{name.removesuffix('_unconstrained')} takes its value from Pyro's param "
                                "store, where an earlier module of that name left it; call "
                                "pyro.clear_param_store() for a fresh start"
                            )
        return ""
