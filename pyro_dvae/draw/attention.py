"""The selective attention of DRAW: a grid of Gaussian filters that reads or writes a patch of an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST_LOGARITHM = 15.0  # keeps filters, and their gradient, finite in single precision


class Window(NamedTuple):
    """Where N × N filters lie on an image of H × W pixels; every tensor is [..., 1], in pixels.

    Pixel centres are at 0, 1, ... from the left and from the top. ``centre_x`` runs along a row of the image,
    ``centre_y`` down its columns. ``intensity`` is γ, without a unit.
    """

    centre_x: Tensor
    centre_y: Tensor
    stride: Tensor
    scale: Tensor
    intensity: Tensor


def window(parameters: Tensor, image_shape: tuple[int, int], size: int) -> Window:
    """Return the window that five outputs of a network ask for (Gregor et al. 2015, equations 21 to 24)::

        (g̃_X, g̃_Y, log σ², log δ̃, log γ) = parameters
        g_X = (W + 1)/2 · (g̃_X + 1)     g_Y = (H + 1)/2 · (g̃_Y + 1)     δ = (max(H, W) − 1)/(N − 1) · δ̃

    with g counted from 1, as in the paper; the window has it less 1. All zeros are the whole image: the
    filters spread evenly over its longer side, around its centre. Logarithms beyond ±15 count as ±15.

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

    Each row sums to 1, also where a filter lies outside the image: it then sees the pixels at the edge.

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
    """Return the images 1/γ F_Yᵀ w F_X that patches draw (equation 29).

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
