"""Why a step failed: values outside the support of a likelihood, and the first site that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_dvae.errors import InputError
from pyro_dvae.random_state import forked


class InSupport(Messenger):
    """Refuses observed values outside the support of their distribution; masked ones do not count.

    Values between 0 and 1 pass for a Bernoulli, whose log-density is then the usual cross-entropy.

    :param argument: what the values come from, for the message.
    """

    def __init__(self, argument: str) -> None:
        super().__init__()
        self._argument = argument

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] or not isinstance(msg["value"], Tensor) or _has_mask(msg["fn"]):
            return
        try:
            support = _relaxed(msg["fn"].support)
            inside = support.check(msg["value"])
            if msg["mask"] is not None:
                inside = inside | ~torch.as_tensor(msg["mask"], device=inside.device)
        except (AttributeError, NotImplementedError, RuntimeError):  # no support, or of another shape
            return
        if not bool(inside.all()):
            found = msg["value"].detach()
            raise InputError(
                f"{self._argument}: expected values in the support of the likelihood of site {msg['name']!r} "
                f"({support}), got values from {found.min().item():g} to {found.max().item():g} in the first "
                "batch; rescale them, or choose another likelihood"
            )


def _has_mask(fn: Any) -> bool:
    """Whether a distribution masks elements itself: which, its support does not say."""
    while not isinstance(fn, dist.MaskedDistribution):
        fn = getattr(fn, "base_dist", None)
        if fn is None:
            return False
    return True


def _relaxed(support: Any) -> Any:
    """Return a support with [0, 1] for {0, 1}."""
    if isinstance(support, constraints.independent):
        return constraints.independent(_relaxed(support.base_constraint), support.reinterpreted_batch_ndims)
    return constraints.unit_interval if support is constraints.boolean else support


_SHOWN = 5


@dataclass(frozen=True)
class Fault:
    """The first values out of range.

    :param text: the site, the parameter, the rows and the first such value, in one line.
    :param finite: whether that value is a number at all.
    """

    text: str
    finite: bool


def first_fault(run: Callable[[], object]) -> Fault | None:
    """Return what is wrong first in one more run of a loss, unvalidated and apart from the random streams."""
    with forked(), pyro.validation_enabled(False), torch.no_grad(), _Inspector() as inspector:
        try:
            run()
        except Exception:
            # What follows from bad values may fail in any way; the first of them was seen.
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
    """Yield what has a range, its values, whether each lies inside, and the batch dimensions of that."""
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
