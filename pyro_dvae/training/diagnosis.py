"""Why a step failed: the first site with values out of range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.random_state import forked

_SHOWN = 5


@dataclass(frozen=True)
class Fault:
    """The first values out of range.

    :param text: the site, the parameter, the rows and the first such value, in one line.
    :param finite: whether that value is finite.
    """

    text: str
    finite: bool


def first_fault(run: Callable[[], object]) -> Fault | None:
    """Return the first fault in another run of a loss, without validation and on a forked random stream."""
    with forked(), pyro.validation_enabled(False), torch.no_grad(), _Inspector() as inspector:
        try:
            run()
        except Exception:
            # Bad values may cause any exception; the first of them was recorded.
            return inspector.fault
    return inspector.fault


class _Inspector(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.fault: Fault | None = None

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if self.fault is not None or site_is_subsample(msg):
            return
        for what, values, good, batch in _checked(msg):
            if not bool(good.all()):
                self.fault = _described(msg["name"], what, values, good, batch)
                return


def _checked(msg: dict[str, Any]) -> Iterator[tuple[str, Tensor, Tensor, int]]:
    """Yield each constrained quantity, its values, which are in range, and the latter's batch dimensions."""
    function, base = msg["fn"], msg["fn"]
    while hasattr(base, "base_dist"):
        base = base.base_dist
    reinterpreted = getattr(function, "event_dim", 0) - getattr(base, "event_dim", 0)
    for name, constraint in getattr(base, "arg_constraints", {}).items():
        values = base.__dict__.get(name)
        if isinstance(values, Tensor) and not torch.distributions.constraints.is_dependent(constraint):
            good = constraint.check(values)
            yield f"{name} of {type(base).__name__}", values, good, good.dim() - reinterpreted
    value = msg["value"]
    if isinstance(value, Tensor) and value.is_floating_point():
        good = torch.isfinite(value)
        what = "the observed value" if msg["is_observed"] else "the value drawn"
        yield what, value, good, value.dim() - getattr(function, "event_dim", 0)


def _described(site: str, what: str, values: Tensor, good: Tensor, batch: int) -> Fault:
    bad = (~good).nonzero()
    first = values[tuple(bad[0])]
    number = float(first.flatten()[0])
    where = ""
    if batch > 0:
        rows = bad[:, batch - 1].unique().tolist()
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        named = f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{more}"
        where = f" in {named} of the {good.shape[batch - 1]:,} of the batch"
    finite = bool(torch.isfinite(first).all())
    return Fault(f"site {site!r}: {what} is out of range{where}, the first is {number:g}", finite)
