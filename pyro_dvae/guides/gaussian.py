"""The diagonal Gaussian recognition network."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.corruptions import Corruption
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.networks import GaussianEncoder


class GaussianGuide(AmortisedGuide):
    """The recognition network of Im et al. (2017): corrupt ``x``, then ``z ~ N(loc(x̃), diag scale(x̃)²)``.

    :param encoder: module from x̃ [..., D] to a pair (loc, scale), each [..., d].
    :param corruption: the corruption.
    """

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
    ) -> GaussianGuide:
        return cls(GaussianEncoder(data_size, latent_size, hidden_sizes, activation), corruption)

    def posterior(self, x_tilde: Tensor) -> dist.Independent:
        loc, scale = self.encoder(x_tilde)
        return dist.Normal(loc, scale).to_event(1)
