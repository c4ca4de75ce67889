"""How DRAW reads and writes an image, with or without an attention of Gaussian filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dvae.networks.mlp import linear
from pyro_dvae.registration import Module

_LARGEST_LOGARITHM = 15.0  # keeps filters, and their gradient, finite in single precision


class Window(NamedTuple):
    """The positions of N × N filters on an image of H × W pixels; every tensor is [..., 1], in pixels.

    Pixel centres are at 0, 1, ... from the left and from the top. ``centre_x`` is horizontal, ``centre_y``
    vertical. ``intensity`` is γ, without a unit.
    """

    centre_x: Tensor
    centre_y: Tensor
    stride: Tensor
    scale: Tensor
    intensity: Tensor


def window(parameters: Tensor, image_shape: tuple[int, int], size: int) -> Window:
    """Return the window of five outputs of a network (Gregor et al. 2015, equations 21 to 24)::

        (g̃_X, g̃_Y, log σ², log δ̃, log γ) = parameters
        g_X = (W + 1)/2 · (g̃_X + 1)     g_Y = (H + 1)/2 · (g̃_Y + 1)     δ = (max(H, W) − 1)/(N − 1) · δ̃

    In the paper, g counts from 1; here it counts from 0. With all outputs zero, the filters cover the whole
    image: they spread evenly over its longer side, around its centre. Logarithms are clipped to ±15.

    :param parameters: shape [..., 5].
    :param image_shape: (H, W).
    :param size: N.
    """
    height, width = image_shape
    across, down, *logarithms = parameters.split(1, dim=-1)
    log_variance, log_stride, log_intensity = (
        each.clamp(-_LARGEST_LOGARITHM, _LARGEST_LOGARITHM) for each in logarithms
    )
    return Window(
        centre_x=(width + 1) / 2 * (across + 1) - 1,
        centre_y=(height + 1) / 2 * (down + 1) - 1,
        stride=(max(image_shape) - 1) / max(size - 1, 1) * log_stride.exp(),
        scale=(0.5 * log_variance).exp(),
        intensity=log_intensity.exp(),
    )


def filters(centre: Tensor, stride: Tensor, scale: Tensor, size: int, length: int) -> Tensor:
    """Return the N filters of one axis (Gregor et al. 2015, equations 19, 20, 25 and 26)::

        F[i, a] ∝ exp(−(a − μ_i)² / 2σ²),    μ_i = g + (i − (N − 1)/2) δ,    i = 0 .. N − 1,  a = 0 .. L − 1

    Each row sums to 1, also if a filter lies outside the image: it then reads the pixels at the edge.

    :param centre: g, shape [..., 1], in pixels from 0; ``stride`` δ and ``scale`` σ likewise.
    :param size: N.
    :param length: L, pixels along the axis.
    :returns: shape [..., N, L].
    """
    steps = torch.arange(size, dtype=centre.dtype, device=centre.device) - (size - 1) / 2
    pixels = torch.arange(length, dtype=centre.dtype, device=centre.device)
    means = centre + steps * stride
    distance = (pixels - means.unsqueeze(-1)) / scale.unsqueeze(-1)
    return torch.softmax(-0.5 * distance.square(), dim=-1)


def read(images: Tensor, where: Window, size: int) -> Tensor:
    """Return the patch γ F_Y x F_Xᵀ of each image (equation 27).

    :param images: shape [..., H, W].
    :returns: shape [..., N, N].
    """
    rows, columns = _both(where, size, (images.shape[-2], images.shape[-1]))
    return where.intensity.unsqueeze(-1) * (rows @ images @ columns.mT)


def write(patches: Tensor, where: Window, image_shape: tuple[int, int]) -> Tensor:
    """Return the images 1/γ F_Yᵀ w F_X of patches (equation 29).

    :param patches: shape [..., N, N].
    :returns: shape [..., H, W].
    """
    rows, columns = _both(where, patches.shape[-1], image_shape)
    return (rows.mT @ patches @ columns) / where.intensity.unsqueeze(-1)


def _both(where: Window, size: int, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    height, width = image_shape
    return (
        filters(where.centre_y, where.stride, where.scale, size, height),
        filters(where.centre_x, where.stride, where.scale, size, width),
    )


def joined(*parts: Tensor) -> Tensor:
    """Concatenate parts along the last dimension, with broadcast leading dimensions."""
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)


class Reader(Module, ABC):
    """Reads x̃ and the error image x̂ = x̃ − sigmoid(c) for the encoder: [..., output_size]."""

    output_size: int

    @abstractmethod
    def forward(self, x: Tensor, error: Tensor, hidden: Tensor) -> Tensor:
        """Return the reading of ``x`` and ``error`` [..., D] at h^dec = ``hidden`` [..., hidden_size]."""


class WholeReader(Reader):
    """Reads everything: read(x, x̂, h) = [x, x̂] (Gregor et al. 2015, equation 17)."""

    def __init__(self, image_shape: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = 2 * image_shape[0] * image_shape[1]

    def forward(self, x: Tensor, error: Tensor, hidden: Tensor) -> Tensor:
        return joined(x, error)


class AttentiveReader(Reader):
    """Reads an N × N patch of each: read(x, x̂, h) = γ [F_Y x F_Xᵀ, F_Y x̂ F_Xᵀ] (equation 27).

    :param image_shape: (H, W).
    :param hidden_size: size of h, which determines the window.
    :param size: N.
    """

    def __init__(self, image_shape: tuple[int, int], hidden_size: int, size: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.size = size
        self.output_size = 2 * size**2
        self.where = linear(hidden_size, 5)

    def window(self, hidden: Tensor) -> Window:
        """Return the window of the reader at ``hidden`` [..., hidden_size]."""
        return window(self.where(hidden), self.image_shape, self.size)

    def forward(self, x: Tensor, error: Tensor, hidden: Tensor) -> Tensor:
        where = self.window(hidden)
        patches = [
            read(images.unflatten(-1, self.image_shape), where, self.size).flatten(-2)
            for images in (x, error)
        ]
        return joined(*patches)


class WholeWriter(Module):
    """Draws everywhere: write(h) = W h + b (Gregor et al. 2015, equation 18)."""

    def __init__(self, image_shape: tuple[int, int], hidden_size: int) -> None:
        super().__init__()
        self.patch = linear(hidden_size, image_shape[0] * image_shape[1])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the change of the canvas, [..., D]."""
        strokes: Tensor = self.patch(hidden)
        return strokes


class AttentiveWriter(Module):
    """Draws an N × N patch: write(h) = 1/γ F_Yᵀ w F_X with w = W h + b (equations 28 and 29).

    :param image_shape: (H, W).
    :param hidden_size: size of h, which determines patch and window.
    :param size: N.
    """

    def __init__(self, image_shape: tuple[int, int], hidden_size: int, size: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.size = size
        self.patch = linear(hidden_size, size**2)
        self.where = linear(hidden_size, 5)

    def window(self, hidden: Tensor) -> Window:
        """Return the window of the writer at ``hidden`` [..., hidden_size]."""
        return window(self.where(hidden), self.image_shape, self.size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the change of the canvas, [..., H · W]."""
        patches = self.patch(hidden).unflatten(-1, (self.size, self.size))
        return write(patches, self.window(hidden), self.image_shape).flatten(-2)
