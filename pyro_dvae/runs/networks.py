"""The encoder and the decoder that the options of a run name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.networks import (
    BernoulliDecoder,
    ContinuousBernoulliDecoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    GaussianDecoder,
    GaussianEncoder,
    RecurrentEncoder,
)
from pyro_dvae.options import Options

Layers = tuple[int, ...]
Image = Sequence[int] | None
_LIKELIHOODS: dict[str, Callable[..., nn.Module]] = {
    "bernoulli": BernoulliDecoder,
    "gaussian": GaussianDecoder,
    "gaussian-per-pixel": partial(GaussianDecoder, scale="per-pixel"),
    "continuous-bernoulli": ContinuousBernoulliDecoder,
}


def build_encoder(options: Options, data_size: int, image_shape: Sequence[int] | None = None) -> nn.Module:
    """Return the encoder; a convolutional one of data that are no square images needs ``image_shape``."""
    hidden = _layers("hidden_layers", options.hidden_layers, options.width)
    kind = checks.known("encoder", options.encoder, _ENCODERS)
    return _ENCODERS[kind](options, data_size, hidden, image_shape)


def _gaussian_encoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    return GaussianEncoder(data_size, options.latent_size, hidden, options.activation)


def _convolutional_encoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    sizes = (data_size, options.latent_size, hidden, options.activation)
    return ConvolutionalEncoder(*sizes, image_shape=image_shape)


def _recurrent_encoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    if len(hidden) > 1:
        raise InputError(
            f"hidden_layers: expected 1, the recurrent layer of a gru encoder, got {len(hidden)}"
        )
    return RecurrentEncoder(data_size, options.latent_size, hidden[0])


_ENCODERS = {"mlp": _gaussian_encoder, "convolutional": _convolutional_encoder, "gru": _recurrent_encoder}


def build_decoder(options: Options, data_size: int, image_shape: Sequence[int] | None = None) -> nn.Module:
    """Return the decoder; a convolutional one of data that are no square images needs ``image_shape``."""
    hidden = _layers("decoder_layers", options.decoder_layers, options.width)
    kind = checks.known("decoder", options.decoder, _DECODERS)
    checks.known("likelihood", options.likelihood, _LIKELIHOODS)
    if options.likelihood == "continuous-bernoulli" and options.binarisation != "none":
        raise InputError(
            "likelihood: continuous-bernoulli is a density of grey pixels, which binary ones do not have; "
            f"give --binarisation none, got {options.binarisation!r}"
        )
    return _DECODERS[kind](options, data_size, hidden, image_shape)


def _mlp_decoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    decoder = _LIKELIHOODS[options.likelihood]
    return decoder(options.latent_size, data_size, hidden, options.activation)


def _convolutional_decoder(options: Options, data_size: int, hidden: Layers, image_shape: Image) -> nn.Module:
    sizes = (options.latent_size, data_size, hidden, options.activation)
    return ConvolutionalDecoder(*sizes, image_shape=image_shape, likelihood=options.likelihood)


_DECODERS = {"mlp": _mlp_decoder, "convolutional": _convolutional_decoder}


def _layers(argument: str, layers: int, width: int) -> tuple[int, ...]:
    if checks.count(argument, layers) > 4:
        raise InputError(f"{argument}: expected 1 to 4 hidden layers, got {layers}")
    return (checks.count("width", width),) * layers
