"""Convolutions down from an image and back up to one, for flat data and any leading dims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module

Shape = tuple[int, int, int]


def image_shape_of(data_size: int, image_shape: Sequence[int] | None) -> Shape:
    """Return (channels, height, width) of a datum: what is given, or one square channel.

    :param data_size: D, their product.
    :param image_shape: (height, width), or (channels, height, width), or None for a square image.
    """
    if image_shape is None:
        side = math.isqrt(data_size)
        if side * side != data_size:
            raise InputError(
                f"image_shape: expected the (height, width) of the images, since a data_size of {data_size} "
                "is no square, got None"
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
    """Return ``channels``, or refuse what is not a sequence of at least one number of maps."""
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
    """Draw the weights uniformly with variance gain / inputs, ``inputs`` weights making an output."""
    limit = math.sqrt(3 * gain / inputs)
    nn.init.uniform_(layer.weight, -limit, limit)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Convolutions(Module):
    """Convolutions of stride 2, rectified, from a flat image [..., D] to flat features [..., F].

    Weights start uniform with variance 2 / inputs (He et al. 2015): Glorot's choice would lose the few inputs
    of the first filters against their many outputs. Biases start at zero.

    :param shapes: of the image and of the maps after each convolution, by :func:`sizes_of`.
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
        maps = self.layers(x.reshape(leading.numel(), *self.image))
        return maps.reshape(*leading, self.feature_size)


class TransposedConvolutions(Module):
    """Transposed convolutions of stride 2, rectifiers between them, from flat features to a flat image.

    Weights start uniform with variance 2 / inputs, those of the last layer 1 / inputs; biases at zero.

    :param shapes: of the image and of ever smaller maps, as for :class:`Convolutions`; run through backwards.
    :param kernel_size: odd side of the filters.
    """

    def __init__(self, shapes: Sequence[Shape], kernel_size: int) -> None:
        super().__init__()
        padding = _padding(kernel_size)
        layers: list[nn.Module] = []
        for small, large in pairwise(reversed(shapes)):
            if layers:
                layers.append(nn.ReLU())
            # An even size n and the odd n − 1 halve to the same: the padding says which it was.
            even = ((large[1] + 1) % 2, (large[2] + 1) % 2)
            convolution = nn.ConvTranspose2d(
                small[0], large[0], kernel_size, stride=2, padding=padding, output_padding=even
            )
            # A pixel is reached by every other row and column of the filter.
            inputs = small[0] * max(1.0, kernel_size**2 / 4)
            layers.append(_initialised(convolution, inputs, gain=1.0 if large is shapes[0] else 2.0))
        self.layers = nn.Sequential(*layers)
        self.maps = shapes[-1]
        self.feature_size = math.prod(self.maps)
        self.data_size = math.prod(shapes[0])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return an image [..., D] of ``features`` [..., F]."""
        leading = features.shape[:-1]
        image = self.layers(features.reshape(leading.numel(), *self.maps))
        return image.reshape(*leading, self.data_size)
