"""What priors over the latents of an observation have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.registration import Module


class Prior(Module, ABC):
    """A distribution p(z) of the latent of one observation; a subclass gives it.

    :param latent_size: d.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)

    @classmethod
    def of_sizes(cls, data_size: int, latent_size: int) -> Prior:
        """Return the prior with its usual settings; only one that looks at data needs ``data_size``."""
        return cls(latent_size)

    @abstractmethod
    def forward(self, like: Tensor) -> TorchDistribution:
        """Return p(z), of batch shape [] and event shape [d], in the type and on the device of ``like``."""

    def code(self, z: Tensor) -> Tensor:
        """Return what the decoder sees of a latent ``z`` [..., d], of the same shape.

        It is ``z``, unless the prior keeps its latents on another scale for the sake of numerics.
        """
        return z
