"""The code of an autoencoder as a guide: a point for each datum."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.corruptions import Corruption
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.networks import GaussianEncoder


class CodeGuide(AmortisedGuide):
    """``z = f(x̃)``: a deterministic code, which adds nothing to a bound.

    :param encoder: module from x̃ [..., D] to the code [..., d], or to a pair whose first is the code: the
        location of a :class:`~pyro_dvae.networks.GaussianEncoder`, say, whose scale then plays no part.
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
    ) -> CodeGuide:
        return cls(GaussianEncoder(data_size, latent_size, hidden_sizes, activation), corruption)

    def code(self, x_tilde: Tensor) -> Tensor:
        """Return the code [..., d] of x̃ [..., D]."""
        found = self.encoder(x_tilde)
        code: Tensor = found if isinstance(found, Tensor) else found[0]
        return code

    def posterior(self, x_tilde: Tensor) -> dist.Delta:
        return dist.Delta(self.code(x_tilde), event_dim=1)
