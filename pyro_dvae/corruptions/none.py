"""No corruption: the plain variational autoencoder."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.corruptions.base import Corruption


class NoCorruption(Corruption):
    """``x̃ = x``: the denoising bound becomes the ordinary ELBO."""

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Delta(x)
