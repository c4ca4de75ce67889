"""The declaration of a system: its source, how to build it, and its bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder


@dataclass(frozen=True)
class Setting:
    """The common setting of all systems on a data set.

    :param train: training data in the form of the model's input, [N, D].
    :param fit: trains (model, guide, bound) for the epochs of the setting.
    """

    train: Tensor
    fit: Callable[[Any, Any, Any], None]
    latent_size: int = 50
    encoder_sizes: tuple[int, ...] = (200,)
    decoder_sizes: tuple[int, ...] = (200, 200)
    small: bool = False  # whether systems with their own sizes should be small

    @property
    def data_size(self) -> int:
        return self.train.shape[1]

    def encoder(self, activation: str = "softplus") -> GaussianEncoder:
        return GaussianEncoder(self.data_size, self.latent_size, self.encoder_sizes, activation)

    def decoder(self, kind: Callable[..., nn.Module] = BernoulliDecoder, **options: Any) -> nn.Module:
        return kind(self.data_size, self.latent_size, self.decoder_sizes, **options)

    def guide(self, kind: Any, corruption: dv.Corruption | None = None, **options: Any) -> nn.Module:
        """Return an amortised guide of the sizes of the setting."""
        corruption = salt() if corruption is None else corruption
        guide: nn.Module = kind.of_sizes(
            self.data_size, self.latent_size, self.encoder_sizes, corruption=corruption, **options
        )
        return guide


@dataclass(frozen=True)
class Pair:
    """A model and a guide to train, and those to evaluate if they differ."""

    model: nn.Module
    guide: nn.Module
    evaluated: tuple[nn.Module, nn.Module] | None = None


Measure = Callable[[Any, Any, Tensor, int], dict[str, float]]  # of model, guide, test data and seed
MakeBound = Callable[[Setting], dv.bounds.DenoisingELBO]


def bound(kind: Callable[..., Any], **options: Any) -> MakeBound:
    """Return a maker of the bound; every model here has one plate."""
    return lambda setting: kind(max_plate_nesting=1, **options)


# The bounds that may train a system.
BOUNDS: dict[str, MakeBound] = {
    "denoising": bound(dv.TraceDenoising_ELBO),
    "mean-field": bound(dv.TraceMeanFieldDenoising_ELBO),
    "importance-weighted": bound(dv.TraceDenoisingIWAE_ELBO, num_particles=5),
    "semi-implicit": bound(dv.TraceSemiImplicit_ELBO, num_mixture=10),
}


@dataclass(frozen=True)
class System:
    """One row of the table.

    :param title: its description.
    :param source: paper and section.
    :param members: the classes.
    :param build: makes the model and the guide with their corruption.
    :param trained_by: the bound in words, with its settings.
    :param bound: makes the bound.
    :param applies: names in ``BOUNDS`` that can train it; other bounds refuse it.
    :param measures: measures besides the bound.
    :param dataset: ``"mnist"``, ``"frey"`` or ``"digits"``.
    :param binarisation: binarisation of the data.
    :param times: factor of the data: the 8 × 8 digits times 16 are counts of pixels.
    :param same_as: name of the entry with the same system, which runs instead.
    """

    name: str
    group: str
    title: str
    source: str
    members: str
    build: Callable[[Setting], Pair]
    trained_by: str = "denoising"
    bound: MakeBound = BOUNDS["denoising"]
    applies: tuple[str, ...] = tuple(BOUNDS)
    measures: tuple[Measure, ...] = ()
    dataset: str = "mnist"
    binarisation: str = "static"
    times: float = 1.0
    same_as: str | None = None


def salt() -> dv.SaltAndPepper:
    """Return the default noise: that of the paper's code at 5 %."""
    return dv.SaltAndPepper(0.05, salt="rate")


def frey_noise() -> dv.GaussianNoise:
    return dv.GaussianNoise(0.05)


def dvae(
    setting: Setting,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    corruption: dv.Corruption | None = None,
    prior: dv.priors.Prior | None = None,
) -> Pair:
    """Return the ready-made denoising VAE with other parts."""
    encoder = setting.encoder() if encoder is None else encoder
    decoder = setting.decoder() if decoder is None else decoder
    made = dv.DVAE(encoder, decoder, salt() if corruption is None else corruption, prior)
    return Pair(made.model, made.guide)
