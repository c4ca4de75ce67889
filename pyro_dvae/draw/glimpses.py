"""How DRAW looks at an image and how it draws on its canvas, with and without attention."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyro_dvae.draw import attention
from pyro_dvae.networks.mlp import linear
from pyro_dvae.registration import Module


def joined(*parts: Tensor) -> Tensor:
    """Return the parts side by side along the last dimension, their leading dims broadcast."""
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)


class Reader(Module, ABC):
    """What the encoder sees of x̃ and of the error image x̂ = x̃ − sigmoid(c): [..., output_size]."""

    output_size: int

    @abstractmethod
    def forward(self, x: Tensor, error: Tensor, hidden: Tensor) -> Tensor:
        """Return what is seen of ``x`` and ``error`` [..., D] at h^dec = ``hidden`` [..., hidden_size]."""


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
    :param hidden_size: size of h, which decides where.
    :param size: N.
    """

    def __init__(self, image_shape: tuple[int, int], hidden_size: int, size: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.size = size
        self.output_size = 2 * size**2
        self.where = linear(hidden_size, 5)

    def window(self, hidden: Tensor) -> attention.Window:
        """Return where the reader looks at ``hidden`` [..., hidden_size]."""
        return attention.window(self.where(hidden), self.image_shape, self.size)

    def forward(self, x: Tensor, error: Tensor, hidden: Tensor) -> Tensor:
        where = self.window(hidden)
        patches = [
            attention.read(images.unflatten(-1, self.image_shape), where, self.size).flatten(-2)
            for images in (x, error)
        ]
        return joined(*patches)


class WholeWriter(Module):
    """Draws everywhere: write(h) = W h + b (Gregor et al. 2015, equation 18)."""

    def __init__(self, image_shape: tuple[int, int], hidden_size: int) -> None:
        super().__init__()
        self.patch = linear(hidden_size, image_shape[0] * image_shape[1])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what is added to the canvas, [..., D]."""
        strokes: Tensor = self.patch(hidden)
        return strokes


class AttentiveWriter(Module):
    """Draws an N × N patch: write(h) = 1/γ F_Yᵀ w F_X with w = W h + b (equations 28 and 29).

    :param image_shape: (H, W).
    :param hidden_size: size of h, which decides what and where.
    :param size: N.
    """

    def __init__(self, image_shape: tuple[int, int], hidden_size: int, size: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.size = size
        self.patch = linear(hidden_size, size**2)
        self.where = linear(hidden_size, 5)

    def window(self, hidden: Tensor) -> attention.Window:
        """Return where the writer draws at ``hidden`` [..., hidden_size]."""
        return attention.window(self.where(hidden), self.image_shape, self.size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what is added to the canvas, [..., H · W]."""
        patches = self.patch(hidden).unflatten(-1, (self.size, self.size))
        return attention.write(patches, self.window(hidden), self.image_shape).flatten(-2)
