"""A learned mixture of Gaussians."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.distributions import Mixture
from pyro_dvae.priors.base import Prior


class MixturePrior(Prior):
    """A mixture of diagonal Gaussians whose weights, locations and scales are learned::

        p(z) = Σ_k w_k N(z; loc_k, diag scale_k²)

    It starts with equal weights, scales of 1 and locations drawn from N(0, I).

    :param latent_size: d.
    :param components: K, the number of Gaussians.
    """

    def __init__(self, latent_size: int, components: int = 10) -> None:
        super().__init__(latent_size)
        self.components = checks.count("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_size))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_size))

    def forward(self, like: Tensor) -> Mixture:
        loc, scale = self.loc.to(like), self.log_scale.to(like).exp()
        return Mixture(dist.Categorical(logits=self.logits.to(like)), dist.Normal(loc, scale).to_event(1))
