"""Autoencoders: the networks of a VAE, trained by reconstruction alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import ImproperUniform, constraints
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.models.dvae import LatentVariableModel, require_fitting
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.priors import Prior
from pyro_dvae.registration import Module


class NoPrior(Prior):
    """Density 1 everywhere: it adds nothing to a bound and cannot be sampled from."""

    def forward(self, like: Tensor) -> ImproperUniform:
        return ImproperUniform(constraints.real_vector, torch.Size(), torch.Size([self.latent_size]))


class CodeGuide(AmortisedGuide):
    """``z = f(x̃)``: a deterministic code, which adds nothing to a bound.

    :param encoder: module from x̃ [..., D] to the code [..., d], or to a pair whose first is the code: the
        location of a :class:`~pyro_dvae.networks.GaussianEncoder`, say, whose scale then plays no part.
    :param corruption: corruption of the encoder's input; none by default.
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


class Autoencoder(Module):
    """An autoencoder, or with a corruption the denoising autoencoder of Vincent et al. (2008)::

        minimise Σ_n E_{x̃ ~ p_π(x̃ | x_n)} [ −log p_θ(x_n | z = f_φ(x̃)) ]

    The target is the clean datum. Where the decoder is Bernoulli this is the cross-entropy; where it is
    Gaussian with a scale σ that is a number, the squared error over 2σ², and a constant. A pair ``.model``
    and ``.guide`` for the same ``fit``, ELBOs and ``reconstruction_error`` as the other systems: the guide's
    latent is a point and the model has no prior, so an "ELBO" of the pair is the negative of the sum above.
    It is no bound of log p(x), and ``log_likelihood`` refuses the pair. K latents of a corruption are the
    same, so only ``num_corruptions`` is of use.

    :param encoder: module from x̃ [..., D] to the code [..., d], or to (loc, scale), whose loc is the code.
    :param decoder: module from z [..., d] to a distribution of x [..., D], with an attribute ``latent_size``.
    :param corruption: the corruption of the encoder's input; none by default.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, corruption: Corruption | None = None) -> None:
        super().__init__()
        checks.module("decoder", decoder)
        require_fitting(encoder, decoder)
        latent_size = checks.count("decoder.latent_size", getattr(decoder, "latent_size", None))
        self.model = LatentVariableModel(decoder, NoPrior(latent_size))
        self.guide = CodeGuide(encoder, corruption)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
    ) -> Autoencoder:
        """Return the autoencoder with the networks of a VAE of these sizes and a Bernoulli decoder."""
        encoder = GaussianEncoder(data_size, latent_size, hidden_sizes, activation)
        hidden = tuple(reversed(hidden_sizes))
        return cls(encoder, BernoulliDecoder(data_size, latent_size, hidden, activation), corruption)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the codes [..., d] of clean ``x`` [..., D]."""
        return self.guide.code(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of the data [..., D] at codes ``z`` [..., d]."""
        mean: Any = self.model.decoder(z).mean
        return torch.as_tensor(mean)
