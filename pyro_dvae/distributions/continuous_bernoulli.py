"""The continuous Bernoulli distribution of values in [0, 1], exact for every logit."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dvae import checks

# log(sinh(u)/u) = Σ_n c_n u^(2n), from the Bernoulli numbers; radius of convergence π.
_SERIES = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
_NEAR = 0.5  # logits of smaller magnitude use the series; above it, float32 is accurate enough


class ContinuousBernoulli(dist.TorchDistribution):
    """Density p(x) ∝ λ^x (1 − λ)^(1−x) on [0, 1], λ = sigmoid(logit) (Loaiza-Ganem and Cunningham 2019).

    With logit l,  log p(x) = l (x − 1/2) − log( sinh(l/2) / (l/2) )  in nats: a normalised density, unlike
    the cross-entropy of grey values under a Bernoulli.

    Pyro's distribution of the same name uses λ, which it keeps away from 0 and 1. In float32, for logits
    beyond about 16, it is not normalised and its gradient is wrong; near λ = 1/2 it loses precision. This
    class uses the logit, with a series near 0, and is accurate for every finite logit.

    :param logits: l, any shape.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {"logits": dist.constraints.real}
    support = dist.constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = checks.floating("logits", logits)
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> ContinuousBernoulli:
        new: ContinuousBernoulli = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(new.logits.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * (value - 0.5) - log_sinhc(self.logits)

    @property
    def mean(self) -> Tensor:
        """E x = 1/2 + (coth(l/2) − 2/l) / 2."""
        a = self.logits.abs()
        near, far = _split(a)
        of_far = 1 / -torch.expm1(-far) - 1 / far  # the mean of logit a
        half = self.logits / 2
        slope = _polynomial([(n + 1) * c for n, c in enumerate(_SERIES)], half * half)
        return torch.where(near, 0.5 + half * slope, torch.where(self.logits > 0, of_far, 1 - of_far))

    @property
    def variance(self) -> Tensor:
        """Var x = (1/l²) − 1 / (4 sinh²(l/2))."""
        a = self.logits.abs()
        near, far = _split(a)
        of_far = 1 / far**2 - torch.exp(-far) / torch.expm1(-far) ** 2
        curvature = [(n + 1) * (2 * n + 1) * c / 2 for n, c in enumerate(_SERIES)]
        return torch.where(near, _polynomial(curvature, (a / 2) ** 2), of_far)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape`` by the inverse distribution function."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        a = logits.abs().clamp(min=torch.finfo(logits.dtype).eps)
        of_negative = -torch.log1p(torch.rand_like(a) * torch.expm1(-a)) / a  # of logit −a
        return torch.where(logits > 0, 1 - of_negative, of_negative).clamp(0, 1)


def log_sinhc(logits: Tensor) -> Tensor:
    """Return log( sinh(l/2) / (l/2) ) of each logit l: even in l, 0 at 0, about |l|/2 − log |l| far out."""
    a = logits.abs()
    near, far = _split(a)
    of_far = far / 2 + torch.log(-torch.expm1(-far) / far)
    square = (logits / 2) ** 2
    return torch.where(near, square * _polynomial(_SERIES, square), of_far)


def _split(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return where to use the series, and ``a`` elsewhere, so that no branch divides by 0."""
    near = a < _NEAR
    return near, torch.where(near, _NEAR, a)


def _polynomial(coefficients: tuple[float, ...] | list[float], value: Tensor) -> Tensor:
    """Return Σ_n coefficients[n] value^n."""
    total = torch.full_like(value, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * value + coefficient
    return total
