"""The implicit recognition network, whose input includes noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.networks import GaussianEncoder
from pyro_dvae.sites import auxiliary


class ImplicitGuide(AmortisedGuide):
    """``ε ~ N(0, I)``, ``z ~ N(μ(x̃, ε), diag σ(x̃, ε)²)``: the semi-implicit guide of Yin and Zhou (2018).

    A network of the observation and noise, z = g(x̃, ε), can give q(z|x̃) any shape, but has no tractable
    density. Here the last step is a Gaussian with a learned scale, so q(z|x̃, ε) has a density and only the
    mixture

        q(z|x̃) = E_ε q(z|x̃, ε)

    has none. As σ → 0, the guide becomes purely implicit. ε is an auxiliary site ``noise`` [N, e], in
    addition to the corruption, and ``TraceSemiImplicit_ELBO`` bounds log q(z|x̃) with further draws of both:
    its L_J grows with J to the bound L_cvae of the mixture. The denoising bound is L_0. It is also a valid
    bound, but it does not reward variation over ε, so a guide trained with it becomes Gaussian.

    On clean input (``clean_input``) the noise remains, because it is part of the guide. In ``log_likelihood``
    each sample has its own ε, so the network runs for each sample; ``proposal="mixture"`` uses the mixture
    over several ε for the weights, which has lower variance.

    :param encoder: module from [x̃, ε] of [..., D + e] to a pair (loc, scale), each [..., d].
    :param noise_size: e.
    :param corruption: corruption of the encoder's input; none by default.
    """

    semi_implicit: ClassVar[bool] = True

    def __init__(self, encoder: nn.Module, noise_size: int, corruption: Corruption | None = None) -> None:
        super().__init__(encoder, corruption)
        self.noise_size = checks.count("noise_size", noise_size)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
        noise_size: int | None = None,
    ) -> ImplicitGuide:
        """Return the guide with fully connected networks of these sizes.

        :param noise_size: e; by default the latent size.
        """
        data_size = checks.count("data_size", data_size)
        latent_size = checks.count("latent_size", latent_size)
        size = latent_size if noise_size is None else checks.count("noise_size", noise_size)
        encoder = GaussianEncoder(data_size + size, latent_size, hidden_sizes, activation)
        return cls(encoder, size, corruption)

    def posterior(self, x_tilde: Tensor) -> dist.Independent:
        """Sample the site ``noise`` and return q(z | x̃, ε)."""
        zero = x_tilde.new_zeros(self.noise_size)
        normal = dist.Normal(zero, torch.ones_like(zero)).to_event(1)
        noise = auxiliary("noise", normal)
        lead = torch.broadcast_shapes(x_tilde.shape[:-1], noise.shape[:-1])
        inputs = torch.cat([x_tilde.expand(*lead, -1), noise.expand(*lead, -1)], dim=-1)
        loc, scale = self.encoder(inputs)
        return dist.Normal(loc, scale).to_event(1)
