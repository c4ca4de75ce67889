"""The usual prior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.priors.base import Prior


class StandardNormal(Prior):
    """``z ~ N(0, I)``."""

    def forward(self, like: Tensor) -> dist.Independent:
        return dist.Normal(like.new_zeros(()), like.new_ones(())).expand([self.latent_size]).to_event(1)
