"""Binomial thinning of counts."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.levels import LevelLike, level


class Thinned(dist.TorchDistribution):
    """``x̃ ~ Binomial(x, 1 − rate)`` per element: each of the x units is lost with probability ``rate``.

    The fractional part of a value counts as one more unit, which is lost as a whole with the same
    probability.

    :param x: values ≥ 0, any shape; the batch shape.
    :param rate: probability that a unit is lost, in [0, 1], broadcastable to ``x``.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}
    support = dist.constraints.real
    has_rsample = False

    def __init__(self, x: Tensor, rate: Tensor, validate_args: bool | None = None) -> None:
        self.x = x
        self.rate = rate.to(x.dtype)
        super().__init__(x.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None) -> Thinned:
        return Thinned(self.x.expand(batch_shape), self.rate, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(1 − rate) x."""
        return (1 - self.rate) * self.x

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``."""
        x = self.x.expand(self._extended_shape(sample_shape))
        kept = (1 - self.rate).expand(x.shape).contiguous()
        # torch.binomial does not return for NaN or infinity, which are possible without validation.
        whole = x.floor().nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
        return torch.binomial(whole, kept) + torch.where(torch.rand_like(kept) < kept, x - whole, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element (nats)."""
        whole, found = self.x.floor(), value.floor()
        part, rest = self.x - whole, value - found
        same = 8 * torch.finfo(self.x.dtype).eps * (1 + self.x.abs())  # sums are rounded
        partly = (1 - self.rate) * ((rest - part).abs() <= same) + self.rate * (rest == 0)
        partly = torch.where(part == 0, (rest == 0).to(value.dtype), partly)
        lost = whole - found
        possible = (found >= 0) & (lost >= 0)
        found, lost = found.clamp(min=0), lost.clamp(min=0)
        ways = torch.lgamma(whole + 1) - torch.lgamma(found + 1) - torch.lgamma(lost + 1)
        units = ways + torch.xlogy(found, 1 - self.rate) + torch.xlogy(lost, self.rate)
        return torch.where(possible, units + partly.log(), -torch.inf)

    def mass(self, value: Tensor) -> Tensor:
        """Return the probability of each element."""
        return self.log_prob(value).exp()


class BinomialThinning(Corruption):
    """Thin counts: each unit of x is lost with probability ``rate``.

    ``x̃ ~ Binomial(x, 1 − rate)`` per element; the remaining counts are not rescaled. The fraction of a value
    that is not a whole number is kept or lost as one unit, so values in [0, 1) are masked.

    :param rate: probability that a unit is lost, in [0, 1]: a number, a tensor with a value for each element,
        a schedule, or a network applied to the data (see :class:`NetworkCorruption`).
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    """

    def __init__(self, rate: LevelLike, *, learnable: bool = False, minimum: float = 0.0) -> None:
        super().__init__()
        self.rate = level("rate", rate, learnable=learnable, minimum=minimum)

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        return Thinned(x, self.rate(x))
