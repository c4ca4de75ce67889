"""What a training moves from epoch to epoch beside the parameters, and what it leaves as it is."""

from __future__ import annotations

from typing import Any

from pyro_dvae.parameters import Trained


def scheduled(trained: Trained, bound: Any) -> list[Any]:
    """Return the bound and the modules that have a ``set_epoch``: levels, temperatures, a bound's J."""
    modules = {id(part): part for root in trained.modules.values() for part in root.modules()}
    return [part for part in (bound, *modules.values()) if callable(getattr(part, "set_epoch", None))]


def left_out(trained: Trained) -> str:
    """Return the warning about parameters that model and guide hold and that are not trained."""
    names = trained.left_out
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"not trained: {shown}, which no param statement announces; call pyro.module to train them, or "
        "requires_grad_(False) to leave them as they are"
    )
