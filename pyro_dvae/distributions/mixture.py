"""A mixture with the support of its components, and one of Gaussians with differentiable draws."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Mixture(dist.MixtureSameFamily):
    """Pyro's mixture of distributions of one kind, with the support of its components.

    Pyro's own support has no bijection, so annealing could not move such a latent.
    """

    @property
    def support(self) -> Any:
        """The support of the components, the same for all."""
        return self.component_distribution.support


class DiagonalMixture(dist.TorchDistribution):
    """``q(z) = Σ_c π_c N(z; μ_c, diag σ_c²)``, differentiated by implicit reparameterisation.

    A draw is differentiated through the distribution function of each element given the previous ones
    (Figurnov, Mohamed and Mnih 2018, section 3)::

        F_i(z) = Σ_c w_ci Φ((z_i − μ_ci) / σ_ci),    w_ci ∝ π_c Π_{j<i} N(z_j; μ_cj, σ_cj²)
        dz/dφ  = −(∂F/∂z)⁻¹ ∂F/∂φ

    (F is uniform for z ~ q.) ∂F/∂z is lower triangular; a draw takes O(d² C) operations. Pyro's
    ``MixtureOfDiagNormals`` is not used, because its gradient for the weights π is not that of E f(z).

    :param logits: logits of the weights π, [..., C].
    :param loc: μ, [..., C, d].
    :param scale: σ, [..., C, d].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        self.logits = torch.log_softmax(logits, -1).expand(*batch_shape, -1)
        self.loc = loc.expand(*batch_shape, -1, -1)
        self.scale = scale.expand(*batch_shape, -1, -1)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> DiagonalMixture:
        shape = torch.Size(batch_shape)
        return DiagonalMixture(
            self.logits.expand(*shape, -1),
            self.loc.expand(*shape, -1, -1),
            self.scale.expand(*shape, -1, -1),
            validate_args=False,
        )

    @property
    def mean(self) -> Tensor:
        """Return E z, [..., d]."""
        return (self.logits.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Return the variance of each element of z, [..., d]."""
        spread = (self.loc - self.mean.unsqueeze(-2)).square() + self.scale.square()
        return (self.logits.exp().unsqueeze(-1) * spread).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z) (nats)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self.logits + self._log_normal(value).sum(-1), -1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw z of shape ``sample_shape + batch_shape + [d]``."""
        with torch.no_grad():
            z = self._draw(self._extended_shape(sample_shape))
            followed = any(p.requires_grad for p in (self.logits, self.loc, self.scale))
        if not (followed and torch.is_grad_enabled()):
            return z
        log_normal, standard = self._log_normal(z), self._standard(z)
        with torch.no_grad():
            jacobian = self._jacobian(log_normal, standard)
        distribution = (self._weights(log_normal) * torch.special.ndtr(standard)).sum(-2)
        change = (distribution - distribution.detach()).unsqueeze(-1)
        return z - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)

    def _draw(self, shape: torch.Size) -> Tensor:
        lead = shape[:-1]
        component = dist.Categorical(logits=self.logits, validate_args=False).expand(lead).sample()
        index = component[..., None, None].expand(*lead, 1, shape[-1])
        loc = self.loc.expand(*lead, -1, -1).gather(-2, index).squeeze(-2)
        scale = self.scale.expand(*lead, -1, -1).gather(-2, index).squeeze(-2)
        return loc + scale * torch.randn_like(loc)

    def _standard(self, z: Tensor) -> Tensor:
        return (z.unsqueeze(-2) - self.loc) / self.scale

    def _log_normal(self, z: Tensor) -> Tensor:
        """Return log N(z_i; μ_ci, σ_ci²), [..., C, d]."""
        return -0.5 * self._standard(z).square() - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def _weights(self, log_normal: Tensor) -> Tensor:
        """Return w, [..., C, d]."""
        before = log_normal.cumsum(-1) - log_normal
        return torch.softmax(self.logits.unsqueeze(-1) + before, -2)

    def _jacobian(self, log_normal: Tensor, standard: Tensor) -> Tensor:
        """Return ∂F/∂z, [..., d, d], a row for each element of F."""
        weights = self._weights(log_normal)
        part = weights * torch.special.ndtr(standard)
        # ∂w_ci/∂z_j = w_ci (s_cj − Σ_c' w_c'i s_c'j) for j < i, with s_cj = ∂ log N(z_j; μ_cj, σ_cj²)/∂z_j
        slope = -standard / self.scale
        across = (part - weights * part.sum(-2, keepdim=True)).transpose(-1, -2) @ slope
        density = (weights * log_normal.exp()).sum(-2)
        return across.tril(-1) + torch.diag_embed(density)
