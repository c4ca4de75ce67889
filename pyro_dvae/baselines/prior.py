"""No prior: what an autoencoder has in its place."""

from __future__ import annotations

import torch
from pyro.distributions import ImproperUniform, constraints
from torch import Tensor

from pyro_dvae.priors import Prior


class NoPrior(Prior):
    """Density 1 everywhere: it adds nothing to a bound and cannot be sampled from."""

    def forward(self, like: Tensor) -> ImproperUniform:
        return ImproperUniform(constraints.real_vector, torch.Size(), torch.Size([self.latent_size]))
