"""The standard normal prior, and two narrow Gaussians per latent."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.distributions import Mixture
from pyro_dvae.priors.base import Prior


class StandardNormal(Prior):
    """``z ~ N(0, I)``."""

    def forward(self, like: Tensor) -> dist.Independent:
        return dist.Normal(like.new_zeros(()), like.new_ones(())).expand([self.latent_size]).to_event(1)


class GaussianPair(Prior):
    """A prior with each latent near 0 or near ``separation``, which favours binary codes::

        p(z) = Π_i [ ½ N(z_i; 0, scale²) + ½ N(z_i; separation, scale²) ]

    Narrower Gaussians give codes closer to binary, but latents then rarely change sides during training. If
    separation / scale is 2 or less, the density has a single mode.

    :param latent_size: d.
    :param separation: positive distance between the two means.
    :param scale: positive standard deviation of each Gaussian.
    """

    def __init__(self, latent_size: int, separation: float = 1.0, scale: float = 0.2) -> None:
        super().__init__(latent_size)
        self.separation = checks.positive_single("separation", separation)
        self.scale = checks.positive_single("scale", scale)

    def forward(self, like: Tensor) -> dist.Independent:
        loc = torch.stack([like.new_zeros(()), like.new_full((), self.separation)])
        pair = dist.Normal(loc, like.new_full((), self.scale))
        weights = dist.Categorical(logits=like.new_zeros(2))
        return Mixture(weights, pair).expand([self.latent_size]).to_event(1)
