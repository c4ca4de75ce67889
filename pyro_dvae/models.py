"""Generative networks as Pyro models, and the ready-made denoising VAE."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption, NoCorruption
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.registration import register


class LatentGaussianModel(nn.Module):
    """``z ~ N(0, I)``, ``x ~ p_θ(x|z)`` by a decoder.

    Sites: ``z`` [N, d] and ``x`` [N, D], inside the plate ``data``.

    :param decoder: module from z [..., d] to a Pyro distribution over [..., D] with one event dimension,
        with an attribute ``latent_size`` (d).
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.latent_size = checks.count("decoder.latent_size", getattr(decoder, "latent_size", None))

    def forward(self, x: Tensor) -> Tensor:
        """Observe each row of ``x`` [N, D]; return the latents [N, d]."""
        register("decoder", self.decoder)
        prior = dist.Normal(x.new_zeros(()), x.new_ones(())).expand([self.latent_size])
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", self.decoder(z), obs=x)
        return z


class DVAE(nn.Module):
    """The denoising variational autoencoder of Im et al. (2017): a pair ``.model`` and ``.guide`` for Pyro.

    Both are callables of the data [N, D] for ``pyro.infer.SVI`` and modules for ``elbo(dvae.model,
    dvae.guide)``. Without a corruption it is the VAE of Kingma and Welling (2014).

    :param encoder: module from x̃ [..., D] to (loc, scale) of the latents, each [..., d].
    :param decoder: module from z [..., d] to a distribution of x [..., D].
    :param corruption: the corruption of the encoder's input.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, corruption: Corruption | None = None) -> None:
        super().__init__()
        self.model = LatentGaussianModel(decoder)
        self.guide = GaussianGuide(encoder, NoCorruption() if corruption is None else corruption)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents of clean ``x`` [..., D], each [..., d]."""
        loc, scale = self.guide.encoder(x)
        return loc, scale

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of the data [..., D] at latents ``z`` [..., d]."""
        mean: Any = self.model.decoder(z).mean
        return torch.as_tensor(mean)
