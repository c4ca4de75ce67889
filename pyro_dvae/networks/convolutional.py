"""Convolutional encoders and decoders for images: flat rows [..., D], or [..., C, H, W] for the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.networks.decoders import Decoder
from pyro_dvae.networks.elements import LIKELIHOODS
from pyro_dvae.networks.encoders import Encoder
from pyro_dvae.networks.mlp import linear, trunk
from pyro_dvae.registration import Module

Shape = tuple[int, int, int]


def image_shape_of(data_size: int, image_shape: Sequence[int] | None) -> Shape:
    """Return (channels, height, width) of an observation; by default one square channel.

    :param data_size: D, their product.
    :param image_shape: (height, width), or (channels, height, width), or None for a square image.
    """
    if image_shape is None:
        side = math.isqrt(data_size)
        if side * side != data_size:
            raise InputError(
                f"image_shape: expected the (height, width) of the images, since a data_size of {data_size} "
                "is not square, got None"
            )
        return (1, side, side)
    expected = f"image_shape: expected (height, width) or (channels, height, width) with product {data_size}"
    if isinstance(image_shape, (str, bytes)) or not isinstance(image_shape, Sequence):
        raise InputError(f"{expected}, got {image_shape!r}")
    for size in image_shape:
        checks.count("image_shape", size)
    if len(image_shape) not in (2, 3) or math.prod(image_shape) != data_size:
        raise InputError(f"{expected}, got {tuple(image_shape)!r}")
    channels, height, width = (1, *image_shape)[-3:]
    return (channels, height, width)


def maps_of(channels: Sequence[int]) -> tuple[int, ...]:
    """Return ``channels``, which must be a sequence with at least one number of maps."""
    if isinstance(channels, (str, bytes)) or not isinstance(channels, Sequence) or len(channels) == 0:
        raise InputError(f"channels: expected at least one number of maps, got {channels!r}")
    return tuple(checks.count("channels", maps) for maps in channels)


def sizes_of(image: Shape, channels: Sequence[int]) -> list[Shape]:
    """Return the shapes of the image and of the maps after each convolution of stride 2.

    Each halves height and width, rounding up.
    """
    shapes = [image]
    for maps in channels:
        _, height, width = shapes[-1]
        shapes.append((maps, (height + 1) // 2, (width + 1) // 2))
    return shapes


def _padding(kernel_size: int) -> int:
    if checks.count("kernel_size", kernel_size) % 2 == 0:
        raise InputError(f"kernel_size: expected an odd number, got {kernel_size}")
    return kernel_size // 2


def _initialised(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: float, gain: float) -> nn.Module:
    """Draw uniform weights with variance gain / inputs; an output has ``inputs`` weights."""
    limit = math.sqrt(3 * gain / inputs)
    nn.init.uniform_(layer.weight, -limit, limit)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Convolutions(Module):
    """Convolutions of stride 2 with ReLUs, from a flat image [..., D] to flat features [..., F].

    Initial weights are uniform with variance 2 / inputs (He et al. 2015). Glorot's variance would be too
    small for the first filters, which have few inputs and many outputs. Biases start at zero.

    :param shapes: shapes of the image and of the maps after each convolution (see :func:`sizes_of`).
    :param kernel_size: odd side of the filters.
    """

    def __init__(self, shapes: Sequence[Shape], kernel_size: int) -> None:
        super().__init__()
        padding = _padding(kernel_size)
        layers: list[nn.Module] = []
        for (before, *_), (after, *_) in pairwise(shapes):
            convolution = nn.Conv2d(before, after, kernel_size, 2, padding)
            layers.append(_initialised(convolution, inputs=before * kernel_size**2, gain=2.0))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)
        self.image = shapes[0]
        self.feature_size = math.prod(shapes[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [..., F] of ``x`` [..., D]."""
        leading = x.shape[:-1]
        maps = self.layers(x.reshape(math.prod(leading), *self.image))
        return maps.reshape(*leading, self.feature_size)


class TransposedConvolutions(Module):
    """Transposed convolutions of stride 2 with ReLUs between them, from flat features to a flat image.

    Initial weights are uniform with variance 2 / inputs, in the last layer 1 / inputs; biases are zero.

    :param shapes: as for :class:`Convolutions`, from the image to the smallest maps; used in reverse.
    :param kernel_size: odd side of the filters.
    """

    def __init__(self, shapes: Sequence[Shape], kernel_size: int) -> None:
        super().__init__()
        padding = _padding(kernel_size)
        layers: list[nn.Module] = []
        for small, large in pairwise(reversed(shapes)):
            if layers:
                layers.append(nn.ReLU())
            # An even size n and the odd n − 1 have the same half; the padding distinguishes them.
            even = ((large[1] + 1) % 2, (large[2] + 1) % 2)
            convolution = nn.ConvTranspose2d(
                small[0], large[0], kernel_size, stride=2, padding=padding, output_padding=even
            )
            # Only every other row and column of the filter reaches a pixel.
            inputs = small[0] * max(1.0, kernel_size**2 / 4)
            layers.append(_initialised(convolution, inputs, gain=1.0 if large is shapes[0] else 2.0))
        self.layers = nn.Sequential(*layers)
        self.maps = shapes[-1]
        self.feature_size = math.prod(self.maps)
        self.data_size = math.prod(shapes[0])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return an image [..., D] of ``features`` [..., F]."""
        leading = features.shape[:-1]
        image = self.layers(features.reshape(math.prod(leading), *self.maps))
        return image.reshape(*leading, self.data_size)


class ConvolutionalEncoder(Encoder):
    """Convolutions of stride 2, then fully connected layers (as in Salimans, Kingma & Welling 2015).

    h = trunk(convolutions(x)); each convolution halves height and width, rounding up, and is followed by a
    ReLU. (With softplus or tanh instead, the posterior collapsed within a hundred steps on MNIST, because so
    many non-zero features change the next layer too much at once.) ``x`` is ``[..., data_size]`` or ``[...,
    *image_shape]``; location and scale are ``[..., latent_size]``. Weights of the convolutions start He
    uniform, all others Glorot uniform, biases at zero.

    :param data_size: D, the elements of an image.
    :param latent_size: d.
    :param hidden_sizes: sizes of the fully connected layers after the convolutions.
    :param activation: activation of the fully connected layers.
    :param image_shape: (height, width), or (channels, height, width); by default a square image.
    :param channels: number of output maps of each convolution.
    :param kernel_size: odd side of the filters.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        image_shape: Sequence[int] | None = None,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
    ) -> None:
        super().__init__(data_size, latent_size)
        image = image_shape_of(self.data_size, image_shape)
        shapes = sizes_of(image, maps_of(channels))
        self.image_shape = image[1:] if image_shape is None else tuple(image_shape)
        self.convolutions = Convolutions(shapes, kernel_size)
        self.trunk = trunk(self.convolutions.feature_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], 2 * self.latent_size)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(loc, scale)``, each ``[..., latent_size]``, for flat ``x`` or ``[..., *image_shape]``."""
        sizes = len(self.image_shape)
        shape = x.shape if isinstance(x, torch.Tensor) else torch.Size()
        if shape[-1:] != (self.data_size,) and shape[-sizes:] == self.image_shape:
            x = x.flatten(-sizes)
        return super().forward(x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.trunk(self.convolutions(x))
        return hidden


class ConvolutionalDecoder(Decoder):
    """Fully connected layers, then transposed convolutions of stride 2, the mirror of the encoder's.

    x ~ likelihood(transposed(max(0, W trunk(z) + b))): Bernoulli pixels by default.
    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.
    Weights of the convolutions start He uniform, all others Glorot uniform, biases at zero.

    :param latent_size: d.
    :param data_size: D, the elements of an image.
    :param hidden_sizes: sizes of the fully connected layers before the convolutions.
    :param activation: after the fully connected layers.
    :param image_shape: (height, width), or (channels, height, width); by default a square image.
    :param channels: number of input maps of each transposed convolution, smallest maps first.
    :param kernel_size: odd side of the filters.
    :param likelihood: ``"bernoulli"``, ``"continuous-bernoulli"``, ``"gaussian"`` (one learned scale),
        ``"gaussian-per-pixel"`` (a second image of scales), ``"discretised-logistic"`` (bytes, a second
        image of scales) or ``"discretised-logistic-mixture"``.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        image_shape: Sequence[int] | None = None,
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 3,
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__(data_size, latent_size)
        kind = LIKELIHOODS[checks.known("likelihood", likelihood, LIKELIHOODS)]
        image = image_shape_of(self.data_size, image_shape)
        shapes = sizes_of((kind.numbers * image[0], *image[1:]), maps_of(channels)[::-1])
        convolutions = TransposedConvolutions(shapes, kernel_size)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = nn.Sequential(
            linear(hidden_sizes[-1], convolutions.feature_size), nn.ReLU(), convolutions
        )
        self.likelihood = kind()
