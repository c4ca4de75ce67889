"""Whether data lie where a likelihood has its support, which fast decoders do not check in every step."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyro_dvae.errors import InputError


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
