"""Autoencoders: the networks of a VAE, trained only by reconstruction."""

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
from pyro_dvae.models.dvae import LatentVariableModel
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.networks.sizes import require_fitting
from pyro_dvae.priors import Prior
from pyro_dvae.registration import Module


class NoPrior(Prior):
    """A density of 1 everywhere, which adds nothing to a bound and cannot be sampled."""

    def forward(self, like: Tensor) -> ImproperUniform:
        return ImproperUniform(constraints.real_vector, torch.Size(), torch.Size([self.latent_size]))


class CodeGuide(AmortisedGuide):
    """A deterministic code ``z = f(x̃)``, which adds nothing to a bound.

    :param encoder: module from x̃ [..., D] to the code [..., d], or to a pair whose first element is the
        code, such as a :class:`~pyro_dvae.networks.GaussianEncoder`, whose scale is then not used.
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

    The target is the clean observation. With a Bernoulli decoder this is the cross-entropy; with a Gaussian
    decoder and a fixed scale σ, it is the squared error over 2σ² plus a constant. ``.model`` and ``.guide``
    work with ``fit``, the ELBOs and ``reconstruction_error`` like any other pair. The guide's latent is a
    point and the model has no prior, so an "ELBO" of the pair is the negative of the sum above. It is not a
    bound of log p(x), and ``log_likelihood`` refuses the pair. The K latents of a corruption are equal, so
    only ``num_corruptions`` has an effect.

    :param encoder: module from x̃ [..., D] to the code [..., d], or to (loc, scale), whose loc is the code.
    :param decoder: module from z [..., d] to a distribution of x [..., D], with an attribute ``latent_size``.
    :param corruption: the corruption of the encoder's input; none by default.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, corruption: Corruption | None = None) -> None:
        super().__init__()
        checks.module("decoder", decoder)
        require_fitting(encoder, decoder, corruption)
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
