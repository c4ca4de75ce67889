"""Convolutional networks for images, flat as all data are: [..., D]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pyro_dvae import checks
from pyro_dvae.networks.decoders import Decoder
from pyro_dvae.networks.encoders import Encoder
from pyro_dvae.networks.images import Convolutions, TransposedConvolutions, image_shape_of, maps_of, sizes_of
from pyro_dvae.networks.likelihoods import LIKELIHOODS
from pyro_dvae.networks.mlp import linear, trunk


class ConvolutionalEncoder(Encoder):
    """Convolutions of stride 2, then fully connected layers (as in Salimans, Kingma & Welling 2015).

    h = trunk(convolutions(x)); each convolution halves height and width, rounding up, and is followed by a
    rectifier. (With softplus or tanh in its place the posterior collapsed within a hundred steps on MNIST:
    so many features that are never 0 move the next layer too far at once.)
    ``x`` is ``[..., data_size]``; location and scale are ``[..., latent_size]``.
    Weights of the convolutions start He uniform, all others Glorot uniform, biases at zero.

    :param data_size: D, the elements of an image.
    :param latent_size: d.
    :param hidden_sizes: of the fully connected layers behind the convolutions.
    :param activation: after the fully connected layers.
    :param image_shape: (height, width), or (channels, height, width); a square image where left out.
    :param channels: maps that each convolution makes.
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
        shapes = sizes_of(image_shape_of(self.data_size, image_shape), maps_of(channels))
        self.convolutions = Convolutions(shapes, kernel_size)
        self.trunk = trunk(self.convolutions.feature_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], 2 * self.latent_size)

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
    :param hidden_sizes: of the fully connected layers before the convolutions.
    :param activation: after the fully connected layers.
    :param image_shape: (height, width), or (channels, height, width); a square image where left out.
    :param channels: maps before each transposed convolution, those of the smallest size first.
    :param kernel_size: odd side of the filters.
    :param likelihood: ``"bernoulli"``, ``"continuous-bernoulli"``, ``"gaussian"`` (one learned
        scale) or ``"gaussian-per-pixel"`` (a second image of scales).
    """

    def __init__(
        self,
        latent_size: int,
        data_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        image_shape: Sequence[int] | None = None,
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 3,
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__(latent_size, data_size)
        kind = LIKELIHOODS[checks.known("likelihood", likelihood, LIKELIHOODS)]
        image = image_shape_of(self.data_size, image_shape)
        shapes = sizes_of((kind.numbers * image[0], *image[1:]), maps_of(channels)[::-1])
        convolutions = TransposedConvolutions(shapes, kernel_size)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = nn.Sequential(
            linear(hidden_sizes[-1], convolutions.feature_size), nn.ReLU(), convolutions
        )
        self.likelihood = kind()
