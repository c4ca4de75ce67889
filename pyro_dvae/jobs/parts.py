"""Builds the parts of a run from its options: networks, corruption, bound, device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.bounds import (
    DenoisingELBO,
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceMeanFieldDenoising_ELBO,
    TraceSemiImplicit_ELBO,
)
from pyro_dvae.corruptions import (
    Corruption,
    LinearSchedule,
    NoCorruption,
    Schedule,
    StepSchedule,
    mean_image_rate,
)
from pyro_dvae.corruptions.network import FAMILIES
from pyro_dvae.datasets.columns import Columns
from pyro_dvae.errors import InputError
from pyro_dvae.jobs.options import COUNTS, NOISE_PATTERNS, Options
from pyro_dvae.machine import machine_memory
from pyro_dvae.networks import (
    BernoulliDecoder,
    ContinuousBernoulliDecoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    CountEncoder,
    DirichletMultinomialDecoder,
    DiscretisedLogisticDecoder,
    FullCovarianceDecoder,
    GaussianDecoder,
    GaussianEncoder,
    GRUEncoder,
    LowRankCovarianceDecoder,
    MultinomialDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
    TableDecoder,
    TableEncoder,
)
from pyro_dvae.networks.decoders import Decoder
from pyro_dvae.random_state import forked

_SOME = 10_000  # training rows for swap noise, and for the initial covariance of a decoder
Layers = tuple[int, ...]
Image = Sequence[int] | None
_LIKELIHOODS: dict[str, Callable[..., Decoder]] = {
    "bernoulli": BernoulliDecoder,
    "gaussian": GaussianDecoder,
    "gaussian-per-pixel": partial(GaussianDecoder, scale="per-pixel"),
    "gaussian-columns": partial(
        GaussianDecoder, scale="per-column", minimum_scale=0.01, initial_scale=1.0, bounded=False
    ),
    "continuous-bernoulli": ContinuousBernoulliDecoder,
    "discretised-logistic": DiscretisedLogisticDecoder,
    "discretised-logistic-mixture": partial(DiscretisedLogisticDecoder, mixture=True),
    "full-covariance": FullCovarianceDecoder,
    "low-rank-covariance": lambda size, *rest: LowRankCovarianceDecoder(size, *rest, rank=min(5, size)),
    "poisson": PoissonDecoder,
    "negative-binomial": NegativeBinomialDecoder,
    "zero-inflated-poisson": partial(PoissonDecoder, zero_inflated=True),
    "zero-inflated-negative-binomial": partial(NegativeBinomialDecoder, zero_inflated=True),
    "multinomial": MultinomialDecoder,
    "dirichlet-multinomial": DirichletMultinomialDecoder,
}


def build_encoder(
    options: Options, data_size: int, image_shape: Image = None, columns: Columns | None = None
) -> nn.Module:
    """Return the encoder; a convolutional encoder needs ``image_shape`` unless images are square.

    :param columns: columns of a table, for the likelihood ``"table"``.
    """
    hidden = _layers("hidden_layers", options.hidden_layers, options.width)
    kind = checks.known("encoder", options.encoder, _ENCODERS)
    if options.likelihood == "table":
        return TableEncoder(_kinds("encoder", kind, columns), options.latent_size, hidden, options.activation)
    return _ENCODERS[kind](options, data_size, hidden, image_shape)


def _gaussian_encoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    kind = CountEncoder if options.likelihood in COUNTS else GaussianEncoder
    return kind(data_size, options.latent_size, hidden, options.activation)


def _convolutional_encoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    sizes = (data_size, options.latent_size, hidden, options.activation)
    return ConvolutionalEncoder(*sizes, image_shape=image_shape)


def _gru_encoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    if len(hidden) > 1:
        raise InputError(
            f"hidden_layers: expected 1, the recurrent layer of a gru encoder, got {len(hidden)}"
        )
    return GRUEncoder(data_size, options.latent_size, hidden[0])


_ENCODERS = {"mlp": _gaussian_encoder, "convolutional": _convolutional_encoder, "gru": _gru_encoder}


def build_decoder(
    options: Options,
    data_size: int,
    image_shape: Image = None,
    columns: Columns | None = None,
    train: Tensor | None = None,
) -> nn.Module:
    """Return the decoder; a convolutional decoder needs ``image_shape`` unless images are square.

    :param train: training data [N, D], whose covariance is the initial one of a decoder with covariance.
    """
    hidden = _layers("decoder_layers", options.decoder_layers, options.width)
    kind = checks.known("decoder", options.decoder, _DECODERS)
    if options.likelihood == "table":
        return TableDecoder(_kinds("decoder", kind, columns), options.latent_size, hidden, options.activation)
    checks.known("likelihood", options.likelihood, (*_LIKELIHOODS, "table"))
    if columns is not None and columns.has_texts:
        raise InputError(
            f"likelihood: {options.likelihood} is for numbers, but the data have categories; use 'table', "
            "or leave these columns out (--drop)"
        )
    if options.likelihood == "continuous-bernoulli" and options.binarisation != "none":
        raise InputError(
            "likelihood: continuous-bernoulli is a density of grey pixels, not of binary ones; use "
            f"--binarisation none, got {options.binarisation!r}"
        )
    decoder = _DECODERS[kind](options, data_size, hidden, image_shape)
    if train is not None:
        decoder.start_at(train[:_SOME])
    return decoder


def _mlp_decoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> Decoder:
    decoder = _LIKELIHOODS[options.likelihood]
    return decoder(data_size, options.latent_size, hidden, options.activation)


def _convolutional_decoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> Decoder:
    sizes = (data_size, options.latent_size, hidden, options.activation)
    return ConvolutionalDecoder(*sizes, image_shape=image_shape, likelihood=options.likelihood)


_DECODERS = {"mlp": _mlp_decoder, "convolutional": _convolutional_decoder}


def _kinds(argument: str, network: str, columns: Columns | None) -> list[str | tuple[str, int]]:
    if network != "mlp":
        raise InputError(f"{argument}: expected mlp for a table, got {network}")
    if columns is None:
        raise InputError("likelihood: 'table' is for a file with columns, scaled or with names")
    return columns.kinds()


def _layers(argument: str, layers: int, width: int) -> tuple[int, ...]:
    if checks.count(argument, layers) > 4:
        raise InputError(f"{argument}: expected 1 to 4 hidden layers, got {layers}")
    return (checks.count("width", width),) * layers


_SCHEDULES: dict[str, Callable[[float, float, int], Schedule]] = {
    "linear": lambda start, end, epochs: LinearSchedule(start, end, epochs),
    "step": lambda start, end, epochs: StepSchedule({0: start, epochs / 2: end}),
}
_BOUNDS: dict[str, type[DenoisingELBO]] = {
    "dvae": TraceDenoising_ELBO,
    "mean-field": TraceMeanFieldDenoising_ELBO,
    "diwae": TraceDenoisingIWAE_ELBO,
    "semi-implicit": TraceSemiImplicit_ELBO,
}


def build_corruption(options: Options, train: Tensor | None = None) -> Corruption:
    """Return the corruption: :class:`NoCorruption` at level 0, else fixed, scheduled or learned.

    :param train: training data [N, D], for rates proportional to the mean image and for swap noise. Without
        them, the rate is uniform and swap noise has placeholder rows.
    """
    kind = checks.known("noise_kind", options.noise_kind, FAMILIES)
    scaled = kind in ("gaussian", "multiplicative")
    maximum = math.inf if scaled else 1.0
    for argument in ("noise", "noise_end"):
        checks.number(argument, getattr(options, argument), 0.0, maximum)
    if options.learn_noise and options.noise_schedule != "constant":
        raise InputError("learn_noise: a level cannot be both scheduled and learned")
    by_mean = checks.known("noise_pattern", options.noise_pattern, NOISE_PATTERNS) == "mean-image"
    if by_mean and (scaled or options.learn_noise or options.noise_schedule != "constant"):
        raise InputError("noise_pattern: 'mean-image' needs a rate that is neither scheduled nor learned")
    level: float | Schedule | Tensor = options.noise
    if options.noise_schedule != "constant":
        level = _SCHEDULES[options.noise_schedule](options.noise, options.noise_end, options.epochs)
    elif options.noise == 0 and not options.learn_noise:
        return NoCorruption()
    elif by_mean and train is not None:
        level = mean_image_rate(train, options.noise)
    arguments: dict[str, Any] = {}
    if options.learn_noise:
        arguments |= {"learnable": True, "minimum": options.minimum_noise}
    if kind == "salt-and-pepper":
        arguments["salt"] = _salt(options.salt)
    if kind == "swap":
        arguments["rows"] = torch.zeros(2, 1) if train is None else train[:_SOME]
    build: Callable[..., Corruption] = FAMILIES[kind]
    return build(level, **arguments)


def _salt(text: str) -> float | str:
    if text == "rate":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"salt: expected a number in [0, 1] or 'rate', got {text!r}") from None


def build_bound(options: Options) -> DenoisingELBO:
    """Return the bound, for models with one plate like the ready-made ones."""
    kind = _BOUNDS[checks.known("bound", options.bound, _BOUNDS)]
    return kind(num_corruptions=options.corruptions, num_particles=options.particles, max_plate_nesting=1)


def build_clean_bound(options: Options, draws: int = 1) -> DenoisingELBO:
    """Return the bound for validation on clean input: L_dvae, unless importance weights are trained.

    It chooses the best epoch; importance weights train another guide than L_dvae would choose.

    :param draws: number of draws for each observation, which are averaged.
    """
    if options.bound == "diwae":
        return TraceDenoisingIWAE_ELBO(
            num_corruptions=draws, num_particles=options.particles, max_plate_nesting=1
        )
    return TraceDenoising_ELBO(num_corruptions=draws, max_plate_nesting=1)


def training_settings(options: Options) -> dict[str, Any]:
    """Return the common arguments of ``Trainer`` and ``fit_many``."""
    return {
        "epochs": options.epochs,
        "validate_every": options.validate_every,
        "batch_size": options.batch_size,
        "schedule": options.rate_schedule,
        "clip_norm": options.clip_norm,
        "bfloat16": options.bfloat16 and options.compiled is not False,
    }


def check_training(options: Options) -> None:
    """Refuse early what the trainer or the evaluation would refuse later."""
    for entry in dataclasses.fields(options):
        within, value = entry.metadata["within"], getattr(options, entry.name)
        if within and value is not None:
            checks.count(entry.name, value, *within)
    checks.positive("learning_rate", options.learning_rate)
    checks.optional(checks.positive, "clip_norm", options.clip_norm)


def require_memory(options: Options, rows: int, data_size: int, *shape: Any) -> None:
    """Refuse a run that needs far more than this machine's memory, before it is killed.

    :param rows: the training data; ``shape`` is as for :func:`build_encoder`.
    """
    if (available := machine_memory()) is None:
        return
    with forked(), torch.device("meta"):
        parts = [build(options, data_size, *shape) for build in (build_encoder, build_decoder)]
    weights = sum(each.numel() for part in parts for each in part.parameters())
    draws = min(options.batch_size, rows) * options.corruptions * options.particles
    needs = {
        "width, latent_size": 4 * 4 * weights,  # with gradients and Adam's two moments
        "corruptions, particles, batch_size": 4 * draws * data_size,
        "importance_samples": 4 * options.importance_samples * data_size,
    }
    for names, needed in needs.items():
        if needed > available:
            raise InputError(
                f"{names}: the run would take {needed / 2**30:,.0f} GiB of memory or more; this machine has "
                f"{available / 2**30:,.0f}; choose smaller ones"
            )


def pick_device(name: str) -> torch.device:
    """Return the device: ``auto`` is the first GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return checks.device("device", name)
