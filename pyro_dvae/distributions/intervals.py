"""Categories, ordered categories and bytes; the latter two are intervals of a logistic variable."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """Return log(σ(high) − σ(low)), exact even if both round to 0 or 1::

    σ(b) − σ(a) = σ(b) σ(−a) (1 − exp(a − b))
    """
    return logsigmoid(high) + logsigmoid(-low) + torch.log(-torch.expm1(low - high))


class Categorical(dist.Categorical):
    """Pyro's categories, ``P(x = k) = softmax(logits)_k``, also for 0 rows, which PyTorch refuses."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}


class Ordinal(Categorical):
    """Ordered categories 0 … K − 1 by cumulative logits (McCullagh 1980)::

        P(x ≤ k) = σ(c_k − η),    c_0 < c_1 < … < c_(K−2)

    Pyro's ``OrderedLogistic`` is the same, but its extreme probabilities underflow to 0 and have no gradient.

    :param predictor: η, [...].
    :param cutpoints: c, increasing, [..., K − 1].
    """

    def __init__(self, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None) -> None:
        at = cutpoints - predictor.unsqueeze(-1)
        first, last = logsigmoid(at[..., :1]), logsigmoid(-at[..., -1:])
        middle = log_interval(at[..., :-1], at[..., 1:])
        super().__init__(logits=torch.cat([first, middle, last], -1), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Ordinal:
        """Return the categories over a larger batch shape."""
        new: Ordinal = super().expand(batch_shape, self._get_checked_instance(Ordinal, None))
        return new

    @property
    def mean(self) -> Tensor:
        """E x = Σ_k k P(x = k), [...]."""
        levels = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return (self.probs * levels.to(self.logits)).sum(-1)


class DiscretisedLogistic(dist.TorchDistribution):
    """Levels k / (L − 1), k = 0 … L − 1, each the logistic mass of its interval (Salimans et al. 2017)::

        P(x = k / (L − 1)) = σ((x + ½w − μ) / s) − σ((x − ½w − μ) / s),    w = 1 / (L − 1)

    The first and last intervals reach to −∞ and +∞. So a byte divided by 255 has a probability, and its code
    length is comparable with published bits per dimension.

    :param loc: μ, in the units of x, which lies in [0, 1].
    :param log_scale: log s.
    :param levels: L, 256 for bytes.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "log_scale": constraints.real,
    }
    support = constraints.unit_interval
    has_rsample = False

    def __init__(
        self, loc: Tensor, log_scale: Tensor, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> DiscretisedLogistic:
        loc, log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        return DiscretisedLogistic(loc, log_scale, self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the level nearest to each value (nats)."""
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        level = (value * top).round()
        high = ((level + 0.5) / top - self.loc) * torch.exp(-self.log_scale)
        low = ((level - 0.5) / top - self.loc) * torch.exp(-self.log_scale)
        inner = log_interval(low, high)
        return torch.where(level <= 0, logsigmoid(high), torch.where(level >= top, logsigmoid(-low), inner))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw levels of shape ``sample_shape + batch_shape``."""
        loc = self.loc.expand(self._extended_shape(sample_shape))
        noise = torch.logit(torch.rand_like(loc), torch.finfo(loc.dtype).eps)
        top = self.levels - 1
        return ((loc + self.log_scale.exp() * noise) * top).round().clamp(0, top) / top

    @property
    def mean(self) -> Tensor:
        """E x = Σ_k P(x > k w) w."""
        return sum_over_levels(self, weighted=False)

    @property
    def variance(self) -> Tensor:
        """E x² − (E x)²."""
        return sum_over_levels(self, weighted=True) - self.mean.square()


def sum_over_levels(fn: DiscretisedLogistic, weighted: bool) -> Tensor:
    """Return E x, or E x² if ``weighted``, as a sum of P(x ≥ k w) over k = 1 … L − 1."""
    top = fn.levels - 1
    total = torch.zeros_like(fn.loc)
    inverse = torch.exp(-fn.log_scale)
    for level in range(1, fn.levels):
        above = torch.sigmoid((fn.loc - (level - 0.5) / top) * inverse)
        total = total + above * ((2 * level - 1) / top if weighted else 1.0)
    return total / top
