"""Images decoded from a two-dimensional latent space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.plots.figures import FONT_SIZE
from pyro_dvae.plots.grids import checked_images, mosaic_of, picture_of, shades


def manifold_codes(rows: int, columns: int, low: float = 0.05, high: float = 0.95) -> torch.Tensor:
    """Return the latent codes ``[rows * columns, 2]`` of a 2-D manifold picture, by rows from its top left.

    The values z₁ and z₂ are the standard Gaussian quantiles of equally spaced probabilities in [low, high]:
    z₁ grows to the right, z₂ upwards. Decode them and pass the images to :func:`manifold`.
    """
    first, second = _quantiles(columns, low, high, "columns"), _quantiles(rows, low, high, "rows").flip(0)
    grid = torch.stack([first.expand(rows, columns), second[:, None].expand(rows, columns)], dim=-1)
    return grid.reshape(-1, 2).to(torch.get_default_dtype())


def manifold(
    images: Any,
    image_shape: Sequence[int],
    rows: int,
    columns: int,
    *,
    low: float = 0.05,
    high: float = 0.95,
    limits: Sequence[float] = (0.0, 1.0),
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw images ``[rows * columns, D]``, decoded from :func:`manifold_codes`, as tiles without gaps.

    Images, ``image_shape`` and ``limits`` are as for :func:`image_grid`, ``low`` and ``high`` as for
    :func:`manifold_codes`. The axes show the latent values z₁ and z₂ of the tiles.

    :param ax: matplotlib axes to draw on; by default those of a new figure that shows each pixel.
    :returns: the axes.
    """
    tiles, note = shades(checked_images("images", images, image_shape), limits)
    first, second = _quantiles(columns, low, high, "columns"), _quantiles(rows, low, high, "rows").flip(0)
    if len(tiles) != rows * columns:
        raise InputError(f"images: expected rows * columns = {rows * columns} images, got {len(tiles)}")
    mosaic, (tile_height, tile_width) = mosaic_of(tiles, rows, columns, gap=0)
    axes = picture_of(mosaic, title, note, left=62, below=46, ax=ax)
    across, down = _ticks(columns, tile_width, 46), _ticks(rows, tile_height, 22)
    axes.set_xticks([(i + 0.5) * tile_width for i in across], labels=[_label(first[i]) for i in across])
    axes.set_yticks([(i + 0.5) * tile_height for i in down], labels=[_label(second[i]) for i in down])
    axes.tick_params(length=3)
    axes.set_xlabel("z₁", fontsize=FONT_SIZE + 3, labelpad=2)
    axes.set_ylabel("z₂", fontsize=FONT_SIZE + 3, labelpad=2)
    return axes


def _quantiles(count: int, low: float, high: float, argument: str) -> torch.Tensor:
    checks.count(argument, count)
    low, high = checks.positive("low", low), checks.positive("high", high)
    if not low < high < 1:
        raise InputError(f"low, high: expected 0 < low < high < 1, got {low:g} and {high:g}")
    if count == 1:
        low = high = (low + high) / 2
    return torch.special.ndtri(torch.linspace(low, high, count, dtype=torch.float64))


def _ticks(count: int, tile: int, spacing: int) -> range:
    """Return the tiles to label: evenly spaced, at most 21, and at least ``spacing`` screen pixels apart."""
    step = max(math.ceil(spacing / tile), math.ceil(count / 21))
    return range((count - 1) % step // 2, count, step)


def _label(value: torch.Tensor) -> str:
    return f"{round(value.item(), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
