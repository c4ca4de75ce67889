"""Distributions of counts whose totals differ between rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

_COUNTS = constraints.independent(constraints.nonnegative_integer, 1)


class Multinomial(TorchDistribution):
    """``log p(x) = log n! − Σ_j log x_j! + Σ_j x_j log p_j``, with another total n in each row.

    Pyro's and PyTorch's own distributions draw only if all totals are equal.

    :param logits: of p, [..., D]; they need not be normalised.
    :param total: n, whole numbers that broadcast to [...].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
    support = _COUNTS

    def __init__(self, logits: Tensor, total: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(logits.shape[:-1], total.shape)
        self.logits = torch.log_softmax(logits, -1).expand(*shape, -1)
        self.total = total.to(logits).expand(shape)
        super().__init__(shape, logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: TorchDistribution | None = None) -> Multinomial:
        shape = torch.Size(batch_shape)
        return Multinomial(self.logits.expand(*shape, -1), self.total.expand(shape), validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw counts of shape ``sample_shape + batch_shape + [D]``."""
        shape = self._extended_shape(sample_shape)
        return multinomial_draw(self.logits.exp().expand(shape), self.total.expand(shape[:-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability (nats), −∞ where the counts do not add up to the total."""
        if self._validate_args:
            self._validate_sample(value)
        ways = torch.lgamma(self.total + 1) - torch.lgamma(value + 1).sum(-1)
        found = ways + (value * self.logits).sum(-1)
        return torch.where(value.sum(-1) == self.total, found, -torch.inf)

    @property
    def mean(self) -> Tensor:
        """n p, [..., D]."""
        return self.total.unsqueeze(-1) * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        """n p (1 − p), [..., D]."""
        return self.mean * -torch.expm1(self.logits)


class DirichletMultinomial(Multinomial):
    """A multinomial whose probabilities are drawn from Dirichlet(α); with another total n in each row::

        log p(x) = log n! + log Γ(A) − log Γ(n + A) + Σ_j [log Γ(x_j + α_j) − log Γ(α_j) − log x_j!]

    :param concentration: α, [..., D]; A is their sum.
    :param total: n, whole numbers that broadcast to [...].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"concentration": constraints.positive}

    def __init__(self, concentration: Tensor, total: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(concentration.shape[:-1], total.shape)
        self.concentration = concentration.expand(*shape, -1)
        super().__init__(self.concentration.log(), total, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size, _instance: TorchDistribution | None = None
    ) -> DirichletMultinomial:
        shape = torch.Size(batch_shape)
        concentration = self.concentration.expand(*shape, -1)
        return DirichletMultinomial(concentration, self.total.expand(shape), validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw counts of shape ``sample_shape + batch_shape + [D]``."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            probs = dist.Dirichlet(self.concentration.expand(shape)).sample()
        return multinomial_draw(probs, self.total.expand(shape[:-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability (nats), −∞ where the counts do not add up to the total."""
        if self._validate_args:
            self._validate_sample(value)
        alpha, whole = self.concentration, self.concentration.sum(-1)
        ways = torch.lgamma(self.total + 1) - torch.lgamma(value + 1).sum(-1)
        beta = torch.lgamma(whole) - torch.lgamma(whole + self.total)
        found = ways + beta + (torch.lgamma(value + alpha) - torch.lgamma(alpha)).sum(-1)
        return torch.where(value.sum(-1) == self.total, found, -torch.inf)

    @property
    def variance(self) -> Tensor:
        """n p (1 − p) (n + A) / (1 + A), [..., D], with p = α / A."""
        whole = self.concentration.sum(-1, keepdim=True)
        return super().variance * (self.total.unsqueeze(-1) + whole) / (1 + whole)


@torch.no_grad()
def multinomial_draw(probs: Tensor, total: Tensor) -> Tensor:
    """Draw counts [..., D] for probabilities [..., D] and totals [...], each given the previous ones."""
    left = total.to(probs).nan_to_num(0.0, 0.0, 0.0)  # torch.binomial does not return for NaN or infinity
    rest = probs.flip(-1).cumsum(-1).flip(-1)  # p_j + … + p_D
    share = torch.where(rest > 0, probs / rest, 0.0).nan_to_num().clamp(0.0, 1.0)
    share[..., -1] = 1.0
    counts = torch.empty_like(probs)
    for column in range(probs.shape[-1]):
        counts[..., column] = torch.binomial(left, share[..., column].contiguous())
        left -= counts[..., column]
    return counts


class GivenTotal(TorchDistribution):
    """``p(x | n)``: counts given their total, which is the total of the scored value.

    So ``pyro.sample("x", decoder(z), obs=x)`` scores each row by its own total. Draws and moments are for
    ``total``.

    :param make: maps totals [..., 1] to the distribution of event shape [D].
    :param total: totals [..., 1] of draws, mean and variance.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, make: Callable[[Tensor], TorchDistribution], total: Tensor) -> None:
        self.make = make
        self.total = total
        self.typical = make(total)
        super().__init__(self.typical.batch_shape, self.typical.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The support of the distribution for a given total."""
        return self.typical.support

    def expand(self, batch_shape: torch.Size, _instance: TorchDistribution | None = None) -> GivenTotal:
        return GivenTotal(self.make, self.total.expand(*batch_shape, 1))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw counts of shape ``sample_shape + batch_shape + [D]`` for the given totals."""
        return self.typical.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value | its own total), of the batch shape (nats)."""
        found: Tensor = self.make(value.sum(-1, keepdim=True)).log_prob(value)
        shape = torch.broadcast_shapes(self.batch_shape, found.shape)
        return found.expand(shape)

    @property
    def mean(self) -> Tensor:
        """E x for the given totals, [..., D]."""
        return self.typical.mean

    @property
    def variance(self) -> Tensor:
        """The variance for the given totals, [..., D]."""
        return self.typical.variance
