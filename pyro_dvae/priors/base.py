"""The base class of priors over the latents of an observation, and the standard normal prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.registration import Module


class Prior(Module, ABC):
    """A distribution p(z) of the latent of one observation, which a subclass defines.

    :param latent_size: d.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)

    @classmethod
    def of_sizes(cls, data_size: int, latent_size: int) -> Prior:
        """Return the prior with its default settings; only priors that depend on data need ``data_size``."""
        return cls(latent_size)

    @abstractmethod
    def forward(self, like: Tensor) -> TorchDistribution:
        """Return p(z), batch shape [] and event shape [d], with the dtype and device of ``like``."""

    def code(self, z: Tensor) -> Tensor:
        """Return the decoder's input for a latent ``z`` [..., d], with the same shape.

        It is ``z``, unless the prior represents its latents on another scale for numerical reasons.
        """
        return z


class StandardNormal(Prior):
    """``z ~ N(0, I)``."""

    def forward(self, like: Tensor) -> dist.Independent:
        return dist.Normal(like.new_zeros(()), like.new_ones(())).expand([self.latent_size]).to_event(1)
