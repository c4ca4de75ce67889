"""Parameters that a module announces, where Pyro's param store has another tensor of that name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


class Announced(NamedTuple):
    """A param statement: its name, the leaf that Pyro returns, and the tensor that the statement gives it."""

    name: str
    leaf: Tensor
    given: Tensor | None


def why_untrained(statements: Iterable[Announced], modules: Iterable[nn.Module]) -> str:
    """Return why a module would not be trained, with the remedy; empty if all modules own their leaves.

    ``pyro.module`` and ``PyroModule`` give their own tensors to Pyro, which returns the one of that name in
    its store. The module keeps computing with its own, and an optimizer changes the other.
    """
    held = {id(leaf) for module in modules for leaf in module.parameters()}
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
