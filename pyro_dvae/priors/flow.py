"""RealNVP as a prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.networks.mlp import linear, trunk
from pyro_dvae.priors.base import Prior
from pyro_dvae.registration import Module

_LARGEST = 2.0  # log-scale of one layer


class Coupling(Module):
    """Scales and shifts one half of the latents by a network of the other half (Dinh et al. 2017)::

        y_A = u_A,    y_B = u_B exp(s(u_A)) + t(u_A),    log |det ∂y/∂u| = Σ s(u_A)

    s = 2 tanh(a / 2) is bounded. The last layer starts small, so the coupling starts near the identity.

    :param latent_size: d, at least 2.
    :param hidden_size: units of the two layers of the network.
    :param odd: whether the latents of odd position are the half A.
    """

    mask: Tensor

    def __init__(self, latent_size: int, hidden_size: int, odd: bool) -> None:
        super().__init__()
        place = torch.arange(latent_size) % 2
        self.register_buffer("mask", (place == int(odd)).to(torch.get_default_dtype()), persistent=False)
        self.trunk = trunk(latent_size, (hidden_size, hidden_size), "relu")
        self.head = linear(hidden_size, 2 * latent_size)
        with torch.no_grad():
            self.head.weight.mul_(0.01)

    def forward(self, half: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t from the half A, each [..., d] and zero in A; the half B is not used."""
        keep = self.mask.to(half)
        raw, shift = self.head(self.trunk(half * keep)).chunk(2, dim=-1)
        return (1 - keep) * _LARGEST * torch.tanh(raw / _LARGEST), (1 - keep) * shift


class CouplingTransform(Transform):
    """The transform of a :class:`Coupling`, without a cache, so that it can be recorded."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    sign: ClassVar[int] = 1

    def __init__(self, coupling: Coupling) -> None:
        super().__init__(cache_size=0)
        self.coupling = coupling

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, CouplingTransform) and self.coupling is other.coupling

    def _call(self, x: Tensor) -> Tensor:
        log_scale, shift = self.coupling(x)
        return x * log_scale.exp() + shift

    def _inverse(self, y: Tensor) -> Tensor:
        log_scale, shift = self.coupling(y)
        return (y - shift) * (-log_scale).exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return Σ s, in the batch shape."""
        log_scale: Tensor = self.coupling(y)[0]
        return log_scale.sum(-1)


class FlowPrior(Prior):
    """RealNVP as a prior (Dinh et al. 2017; as a prior: Chen et al. 2017; Huang et al. 2017)::

        z = f_T ∘ … ∘ f_1 (u),  u ~ N(0, I);    log p(z) = log N(u; 0, I) − Σ_t log |det ∂f_t|

    The couplings f_t keep even and odd latents fixed in turn. The prior starts near the standard normal.
    Scoring and drawing each take one pass.

    :param latent_size: d, at least 2.
    :param layers: T.
    :param hidden_size: size of the two hidden layers of each coupling's network.
    """

    def __init__(self, latent_size: int, layers: int = 8, hidden_size: int = 100) -> None:
        super().__init__(latent_size)
        if self.latent_size < 2:
            raise InputError("latent_size: expected at least 2 latents to couple, got 1; use MixturePrior")
        hidden_size = checks.count("hidden_size", hidden_size)
        self.couplings = nn.ModuleList(
            Coupling(self.latent_size, hidden_size, index % 2 == 1)
            for index in range(checks.count("layers", layers))
        )

    def forward(self, like: Tensor) -> dist.TransformedDistribution:
        start = dist.Normal(like.new_zeros(()), like.new_ones(())).expand([self.latent_size]).to_event(1)
        layers: Any = self.couplings
        return dist.TransformedDistribution(start, [CouplingTransform(layer) for layer in layers])
