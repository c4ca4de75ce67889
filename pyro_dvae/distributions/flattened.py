"""Vectors as one event: several vectors concatenated, and a one-hot category."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl


class _EachPart(constraints.Constraint):
    """Concatenated vectors that each meet a constraint; there is no bijection to it."""

    event_dim = 1

    def __init__(self, part: constraints.Constraint, shape: torch.Size) -> None:
        self.part = part
        self.shape = shape
        self.is_discrete = part.is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        met: Tensor = self.part.check(value.unflatten(-1, self.shape))
        return met.all(-1)


class Flattened(dist.TorchDistribution):
    """Independent vectors along the last batch dimension of ``base``, concatenated: event shape [n · K].

    :param base: a distribution of batch shape [..., n] and event shape [K].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: Distribution) -> None:
        self.base = base
        self._parts = torch.Size([base.batch_shape[-1], base.event_shape[0]])
        size = self._parts.numel()
        super().__init__(base.batch_shape[:-1], torch.Size([size]), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether the base has reparameterised draws."""
        return bool(self.base.has_rsample)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Each vector lies in the support of the base."""
        return _EachPart(self.base.support, self._parts)

    def expand(self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None) -> Flattened:
        return Flattened(self.base.expand(torch.Size([*batch_shape, self._parts[0]])))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw differentiable values of shape ``sample_shape + batch_shape + [n · K]``."""
        return self.base.rsample(sample_shape).flatten(-2)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw values of shape ``sample_shape + batch_shape + [n · K]``."""
        return self.base.sample(sample_shape).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the joint log-probability of all vectors, in the batch shape (nats)."""
        return self.base.log_prob(value.unflatten(-1, self._parts)).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The means of the vectors, concatenated."""
        return self.base.mean.flatten(-2)


@register_kl(Flattened, Flattened)
def _kl_flattened(p: Flattened, q: Flattened) -> Tensor:
    divergence: Tensor = kl_divergence(p.base, q.base)
    return divergence.sum(-1)


class OneHot(dist.OneHotCategorical):
    """Pyro's one-hot category with draws that can be recorded, unlike draws by PyTorch's ``one_hot``.

    A draw is the largest of logits plus standard Gumbel noise.
    """

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw one-hot vectors of shape ``sample_shape + batch_shape + [K]``."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        noisy = logits - torch.empty_like(logits).exponential_().log()
        return torch.zeros_like(noisy).scatter(-1, noisy.argmax(-1, keepdim=True), 1.0)
