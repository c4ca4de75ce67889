"""A Pyro model with a decoder, and the ready-made denoising VAE."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.errors import InputError
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.networks.sizes import require_fitting
from pyro_dvae.priors import Prior, StandardNormal
from pyro_dvae.registration import Module, register


class LatentVariableModel(Module):
    """``z ~ p(z)``, ``x ~ p_θ(x|z)``, with a decoder of the prior's code of ``z`` (usually ``z`` itself).

    Sites: ``z`` [N, d] and ``x`` [N, D], inside the plate ``data``. Rows may also be images [N, C, H, W];
    rows are flattened, or reshaped to images, as the decoder's distribution requires.

    :param decoder: module from z [..., d] to a Pyro distribution over [..., D] with one event dimension, or
        over images with ``.to_event(3)``; with an attribute ``latent_size`` (d).
    :param prior: prior of the latents; by default the standard normal.
    """

    def __init__(self, decoder: nn.Module, prior: Prior | None = None) -> None:
        super().__init__()
        self.decoder = checks.module("decoder", decoder)
        self.prior = checked_prior(decoder, prior)
        self.latent_size = self.prior.latent_size

    def forward(self, x: Tensor) -> Tensor:
        """Observe each row of ``x`` [N, D] or [N, ...]; return the latents [N, d]."""
        register("decoder", self.decoder)
        register("prior", self.prior)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior(x))
            observe(given_rows(self.decoder, self.prior.code(z), x), x)
        return z


class DVAE(Module):
    """The denoising variational autoencoder of Im et al. (2017): a pair ``.model`` and ``.guide`` for Pyro.

    Both are callables of the data [N, D] for ``pyro.infer.SVI`` and modules for ``elbo(dvae.model,
    dvae.guide)``. Without a corruption it is the VAE of Kingma and Welling (2014).

    :param encoder: module from x̃ [..., D] to (loc, scale) of the latents, each [..., d].
    :param decoder: module from z [..., d] to a distribution of x [..., D].
    :param corruption: corruption of the encoder's input.
    :param prior: of the latents; the standard normal by default.
    :raises InputError: the parts state different sizes.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        corruption: Corruption | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__()
        require_fitting(encoder, decoder, corruption)
        self.model = LatentVariableModel(decoder, prior)
        self.guide = GaussianGuide(encoder, corruption)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents of clean ``x`` [..., D], each [..., d]."""
        loc, scale = self.guide.encoder(x)
        return loc, scale

    @torch.no_grad()
    def decode(self, z: Tensor, *known: Tensor) -> Tensor:
        """Return the mean of the data [..., D] at latents ``z`` [..., d].

        :param known: further input of the decoder: for counts the totals [..., 1].
        """
        mean: Any = self.model.decoder(self.model.prior.code(z), *known).mean
        return torch.as_tensor(mean)


def checked_prior(decoder: nn.Module, prior: Prior | None) -> Prior:
    """Return the prior, by default the standard normal; refuse one that does not fit the decoder."""
    size = checks.count("decoder.latent_size", getattr(decoder, "latent_size", None))
    if prior is None:
        return StandardNormal(size)
    found = checks.instance("prior", prior, Prior, "a pyro_dvae prior").latent_size
    if found != size:
        raise InputError(f"prior: expected latents of size {size}, as the decoder takes, got {found}")
    return prior


def observe(fn: TorchDistribution, x: Tensor) -> None:
    """Observe rows ``x`` [N, ...] at the site ``x``.

    Images [N, C, H, W] are flattened if the events of ``fn`` are flat, and flat rows are reshaped if the
    events are images. Pyro refuses any other difference.
    """
    event = fn.event_shape
    if x.shape[1:] != event and x.shape[1:].numel() == event.numel() and 1 in (len(event), x.dim() - 1):
        x = x.reshape(x.shape[:1] + event)
    pyro.sample("x", fn, obs=x)


def given_rows(decoder: nn.Module, z: Tensor, x: Tensor) -> TorchDistribution:
    """Return p(x | z) of a decoder, which gets the totals of the rows ``x`` [N, ...] if it takes them."""
    known = (x.flatten(1).sum(-1, keepdim=True),) if getattr(decoder, "takes_total", False) else ()
    found: TorchDistribution = decoder(z, *known)
    return found
