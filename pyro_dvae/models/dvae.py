"""The ready-made denoising VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_dvae.corruptions import Corruption
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.models.latent_variable import LatentVariableModel
from pyro_dvae.priors import Prior
from pyro_dvae.registration import Module


class DVAE(Module):
    """The denoising variational autoencoder of Im et al. (2017): a pair ``.model`` and ``.guide`` for Pyro.

    Both are callables of the data [N, D] for ``pyro.infer.SVI`` and modules for ``elbo(dvae.model,
    dvae.guide)``. Without a corruption it is the VAE of Kingma and Welling (2014).

    :param encoder: module from x̃ [..., D] to (loc, scale) of the latents, each [..., d].
    :param decoder: module from z [..., d] to a distribution of x [..., D].
    :param corruption: the corruption of the encoder's input.
    :param prior: of the latents; the standard normal by default.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        corruption: Corruption | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__()
        self.model = LatentVariableModel(decoder, prior)
        self.guide = GaussianGuide(encoder, corruption)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents of clean ``x`` [..., D], each [..., d]."""
        loc, scale = self.guide.encoder(x)
        return loc, scale

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of the data [..., D] at latents ``z`` [..., d]."""
        mean: Any = self.model.decoder(self.model.prior.code(z)).mean
        return torch.as_tensor(mean)
