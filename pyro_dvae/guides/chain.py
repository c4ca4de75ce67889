"""Recognition networks with several stochastic layers."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.networks import GaussianEncoder
from pyro_dvae.networks.sizes import link, require_chain


class ChainGuide(AmortisedGuide):
    """``q(z1|x̃) q(z2|z1) … q(zL|z(L−1))``: stochastic layers of any depth (Im et al. 2017, Theorem 1).

    Each layer is a diagonal Gaussian. Only the first layer sees the (corrupted) observation. The denoising
    bound is::

        E_x̃ E_q [ log p(x, z1, …, zL) − log q(z1|x̃) − Σ_l log q(z(l+1)|z(l)) ]  ≤  log p(x)

    Sites: ``x_tilde`` [N, D] and ``z1`` [N, d_1], …, ``zL`` [N, d_L]. Use it with
    :class:`pyro_dvae.models.ChainModel`.

    :param encoder: module from x̃ [..., D] to a pair (loc, scale) of z1, each [..., d_1].
    :param upper_encoders: a module from z(l) to (loc, scale) of z(l+1) for each further layer.
    :param corruption: corruption of the encoder's input; none by default.
    """

    def __init__(
        self,
        encoder: nn.Module,
        upper_encoders: Sequence[nn.Module] | nn.ModuleList = (),
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__(encoder, corruption)
        self.upper_encoders = nn.ModuleList(checks.modules("upper_encoders", upper_encoders))
        upper = [link(f"upper_encoders[{n}]", each) for n, each in enumerate(self.upper_encoders)]
        require_chain([link("encoder", encoder), *upper])

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
        num_layers: int = 2,
    ) -> ChainGuide:
        """Return the guide with fully connected networks of these sizes.

        :param latent_size: size of each stochastic layer.
        :param num_layers: L.
        """
        encoder = GaussianEncoder(data_size, latent_size, hidden_sizes, activation)
        above = checks.count("num_layers", num_layers) - 1
        upper = [GaussianEncoder(latent_size, latent_size, hidden_sizes, activation) for _ in range(above)]
        return cls(encoder, upper, corruption)

    def posterior(self, x_tilde: Tensor) -> dist.Independent:
        """Return q(z1 | x̃)."""
        loc, scale = self.encoder(x_tilde)
        return dist.Normal(loc, scale).to_event(1)

    def sample(self, x_tilde: Tensor) -> Tensor:
        """Sample all layers; return the last one."""
        z: Tensor = pyro.sample("z1", self.posterior(x_tilde))
        for number, encoder in enumerate(self.upper_encoders, start=2):
            loc, scale = encoder(z)
            z = pyro.sample(f"z{number}", dist.Normal(loc, scale).to_event(1))
        return z
