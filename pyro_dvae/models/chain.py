"""A generative network with several stochastic layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.models.dvae import given_rows, observe
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.networks.sizes import link, require_chain, stated
from pyro_dvae.priors import Prior, StandardNormal
from pyro_dvae.registration import Module, register


class ChainModel(Module):
    """``zL ~ p(zL)``, ``z(l) ~ N(μ(z(l+1)), diag σ(z(l+1))²)``, ``x ~ p(x|z1)``: layers of any depth.

    The generative side of Im et al. (2017), Theorem 1. Sites: ``z1`` [N, d_1], …, ``zL`` [N, d_L] and ``x``
    [N, D], inside the plate ``data``; use it with :class:`pyro_dvae.guides.ChainGuide`. With one layer it
    equals :class:`~pyro_dvae.models.LatentVariableModel` with the site named ``z1``.

    :param decoder: module from z1 [..., d_1] to a Pyro distribution over [..., D] with one event dimension.
    :param upper_decoders: a module from z(l+1) to a pair (loc, scale) of z(l), each [..., d_l], for each
        layer except the last, in the order l = 1, 2, …
    :param prior: the prior of zL.
    :raises InputError: the size of a layer does not fit the layer above it.
    """

    def __init__(
        self, decoder: nn.Module, upper_decoders: Sequence[nn.Module] | nn.ModuleList, prior: Prior
    ) -> None:
        super().__init__()
        self.decoder = checks.module("decoder", decoder)
        self.upper_decoders = nn.ModuleList(checks.modules("upper_decoders", upper_decoders))
        self.prior: Prior = checks.instance("prior", prior, Prior, "a pyro_dvae prior")
        upper = [link(f"upper_decoders[{n}]", each) for n, each in enumerate(self.upper_decoders)]
        top, last = ("prior", None, prior.latent_size), ("decoder", stated(decoder, "latent_size"), None)
        require_chain([top, *reversed(upper), last])

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        num_layers: int = 2,
        likelihood: Callable[[int, int, Sequence[int], str], nn.Module] = BernoulliDecoder,
    ) -> ChainModel:
        """Return the model with fully connected networks of these sizes.

        :param latent_size: size of each stochastic layer.
        :param num_layers: L.
        :param likelihood: the decoder's class.
        """
        latent_size = checks.count("latent_size", latent_size)
        above = checks.count("num_layers", num_layers) - 1
        decoder = likelihood(data_size, latent_size, hidden_sizes, activation)
        upper = [GaussianEncoder(latent_size, latent_size, hidden_sizes, activation) for _ in range(above)]
        return cls(decoder, upper, StandardNormal(latent_size))

    def forward(self, x: Tensor) -> Tensor:
        """Observe each row of ``x`` [N, D]; return z1 [N, d_1]."""
        register("decoder", self.decoder)
        register("upper_decoders", self.upper_decoders)
        register("prior", self.prior)
        number = len(self.upper_decoders) + 1
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample(f"z{number}", self.prior(x))
            above = self.prior.code(z)
            for decoder in reversed(self.upper_decoders):
                number -= 1
                loc, scale = decoder(above)
                z = above = pyro.sample(f"z{number}", dist.Normal(loc, scale).to_event(1))
            observe(given_rows(self.decoder, above, x), x)
        return z
