"""Grids of images, shown pixel by pixel."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.plots.figures import DPI, FONT_SIZE, axes_of, new_figure, note_below

SHOWN = 12  # images in a denoising grid


def image_grid(
    images: Any,
    image_shape: Sequence[int],
    columns: int | None = None,
    *,
    limits: Sequence[float] = (0.0, 1.0),
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw images ``[N, D]`` or ``[N, *image_shape]``, such as samples from the prior, as a grid.

    ``image_shape`` is (height, width), or (channels, height, width) with 1 or 3 channels (red, green, blue);
    its product is D. By default the grid is about square.

    :param limits: the values shown in black and in white (of each colour); values outside are clipped, with a
        note in the figure.
    :param ax: matplotlib axes to draw on; by default those of a new figure that shows each pixel.
    :returns: the axes.
    """
    tiles, note = shades(checked_images("images", images, image_shape), limits)
    count, height, width = tiles.shape[:3]
    if columns is None:
        columns = min(count, math.ceil(math.sqrt(count * height / width)))
    columns = min(checks.count("columns", columns), count)
    mosaic, _ = mosaic_of(tiles, math.ceil(count / columns), columns, gap=2)
    return picture_of(mosaic, title, note, ax=ax)


def denoising_grid(
    clean: Any,
    corrupted: Any,
    reconstructed: Any,
    image_shape: Sequence[int],
    *,
    limits: Sequence[float] = (0.0, 1.0),
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the first dozen images, as for :func:`image_grid`, in rows: clean, corrupted, reconstructed."""
    rows = {
        "clean": checked_images("clean", clean, image_shape),
        "corrupted": checked_images("corrupted", corrupted, image_shape),
        "reconstructed": checked_images("reconstructed", reconstructed, image_shape),
    }
    count = len(rows["clean"])
    for argument, values in rows.items():
        if len(values) != count:
            raise InputError(f"{argument}: expected {count} images as in clean, got {len(values)}")
    tiles, note = shades(np.concatenate([values[:SHOWN] for values in rows.values()]), limits)
    mosaic, (tile_height, _) = mosaic_of(tiles, 3, min(count, SHOWN), gap=2)
    label_width = math.ceil(TEXT_WIDTH * len("reconstructed")) + 8
    axes = picture_of(mosaic, title, note, left=label_width, ax=ax)
    axes.set_yticks([(tile_height + 2) * row + tile_height / 2 for row in range(3)], labels=rows)
    return axes


TEXT_WIDTH, LINE_HEIGHT = 6.6, 18  # screen pixels of a character and a line at the font size
MARGIN = 12  # screen pixels of white around a picture of images
NARROWEST, WIDEST = 320, 2400  # screen pixels: room for the note; larger images are reduced
GAP_COLOUR = "#cfd8e6"


def checked_images(argument: str, images: Any, image_shape: Sequence[int]) -> np.ndarray:
    """Check images, and return them as float64 ``[N, height, width]`` or ``[N, height, width, 3]``."""
    expected = "image_shape: expected (height, width) or (channels, height, width)"
    try:
        sizes = tuple(image_shape)
    except TypeError:
        raise InputError(f"{expected}, got {image_shape!r}") from None
    if len(sizes) not in (2, 3):
        raise InputError(f"{expected}, got {image_shape!r}")
    channels, height, width = (checks.count("image_shape", size) for size in (1, *sizes)[-3:])
    if channels not in (1, 3):
        raise InputError(f"image_shape: pictures show 1 or 3 channels, got {channels}; choose among them")
    try:
        if isinstance(images, torch.Tensor):
            images = images.detach().double().cpu().numpy()
        tensor = torch.from_numpy(np.array(images, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{argument}: expected an array [N, D], got {type(images).__name__}") from None
    checks.finite(argument, tensor)
    elements = math.prod(sizes)
    if tensor.shape[1:] not in ((elements,), sizes):
        named = " x ".join(map(str, sizes))
        raise InputError(
            f"{argument}: expected shape [N, {elements}] for images of {named}, got {tuple(tensor.shape)}"
        )
    if channels == 1:
        return tensor.reshape(-1, height, width).numpy()
    return tensor.reshape(-1, channels, height, width).permute(0, 2, 3, 1).numpy()


def shades(tiles: np.ndarray, limits: Sequence[float]) -> tuple[np.ndarray, str]:
    """Return tiles from :func:`checked_images` with values in [0, 1], and the note below their picture.

    :param limits: the values that become 0 (black) and 1 (white); values outside are clipped.
    :raises InputError: ``limits`` are not two increasing numbers.
    """
    try:
        low, high = (checks.number("limits", each) for each in limits)
    except (TypeError, ValueError) as error:
        raise InputError(f"limits: expected two numbers (low, high), got {shown(limits)}") from error
    if not low < high:
        raise InputError(f"limits: expected low < high, got {low:g} and {high:g}")
    first, last = (f"{each if abs(each) > 1e-6 * (high - low) else 0:.4g}" for each in (low, high))
    note = f"pixel intensity {first} (black) to {last} (white)"
    if tiles.ndim == 4:
        note = f"red, green and blue intensity from {first} to {last}"
    if tiles.min() < low or tiles.max() > high:
        note += f"; values outside [{first}, {last}] are clipped for display"
    return ((tiles - low) / (high - low)).clip(0, 1), note


def mosaic_of(tiles: np.ndarray, rows: int, columns: int, gap: int) -> tuple[Any, tuple[int, int]]:
    """Put the tiles in one array, enlarged by whole factors; return it and the (height, width) of a tile.

    The tiles have values in [0, 1]. Between grey tiles, gaps have value 2 and empty places are masked;
    between colour tiles, both have their colours. The picture is about 900 screen pixels wide. Tiles have at
    least 16 pixels in each direction, so an image of one row is stretched.
    """
    count, height, width, *colours = tiles.shape
    between = [int(GAP_COLOUR[at : at + 2], 16) / 255 for at in (1, 3, 5)] if colours else 2.0
    wanted = min(
        max(900 / max(rows * height, columns * width), 28 / max(height, width)), 240 / max(height, width)
    )
    zoom = max(1, round(wanted))
    down, across = max(zoom, math.ceil(16 / height)), max(zoom, math.ceil(16 / width))
    tile_height, tile_width = height * down, width * across
    pitch_down, pitch_across = tile_height + gap, tile_width + gap
    mosaic = np.full((rows * pitch_down, columns * pitch_across, *colours), np.nan)
    for index in range(count):
        top, left = index // columns * pitch_down, index % columns * pitch_across
        mosaic[top : top + pitch_down, left : left + pitch_across] = between
        enlarged = tiles[index].repeat(down, axis=0).repeat(across, axis=1)
        mosaic[top : top + tile_height, left : left + tile_width] = enlarged
    trimmed = mosaic[: mosaic.shape[0] - gap, : mosaic.shape[1] - gap]
    shown = np.nan_to_num(trimmed, nan=1.0) if colours else np.ma.masked_invalid(trimmed)
    return shown, (tile_height, tile_width)


def picture_of(
    mosaic: Any, title: str | None, note: str, left: int = 0, below: int = 0, ax: Any = None
) -> Any:
    """Show the mosaic in ``ax``, or in new axes of its size (at most the widest figure); return the axes.

    ``left`` and ``below`` are screen pixels for tick labels; axes coordinates are pixels of the mosaic.
    """
    axes, reduced = (
        (axes_of(ax, 6.0, 4.0, title), True) if ax is not None else _exact(mosaic, title, note, left, below)
    )
    from matplotlib import colormaps

    height, width = mosaic.shape[:2]
    axes.imshow(
        mosaic,
        cmap=colormaps["gray"].with_extremes(bad="white", over=GAP_COLOUR),
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        aspect="auto" if ax is None else "equal",
        interpolation="hanning" if reduced else "nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0, pad=4, labelsize=FONT_SIZE)
    axes.spines[:].set_visible(False)
    if ax is not None:
        note_below(axes, note)
    return axes


def _exact(mosaic: Any, title: str | None, note: str, left: int, below: int) -> tuple[Any, bool]:
    """Return axes of the mosaic's size in screen pixels, with title and note, and whether it is reduced."""
    height, width = mosaic.shape[:2]
    scale = min(1.0, WIDEST / max(height, width))
    inner = max(round(width * scale), NARROWEST - left)
    full_width = left + inner + 2 * MARGIN
    letters = int((full_width - 2 * MARGIN) / TEXT_WIDTH)
    heading = textwrap.wrap(title, int(letters * FONT_SIZE / (FONT_SIZE + 2))) if title else []
    legend = textwrap.wrap(note, letters)
    above = MARGIN + (LINE_HEIGHT + 4) * len(heading)
    under = MARGIN + LINE_HEIGHT * len(legend) + below
    full_height = above + round(height * scale) + under
    figure = new_figure(full_width / DPI, full_height / DPI)
    start = MARGIN + left + (inner - round(width * scale)) // 2
    axes = figure.add_axes(
        (
            start / full_width,
            under / full_height,
            round(width * scale) / full_width,
            round(height * scale) / full_height,
        )
    )
    middle = (start + round(width * scale) / 2) / full_width if left == 0 else 0.5
    if heading:
        place = 1 - MARGIN / 2 / full_height
        figure.text(middle, place, "\n".join(heading), ha="center", va="top", fontsize=FONT_SIZE + 2)
    place = MARGIN / 2 / full_height
    figure.text(middle, place, "\n".join(legend), ha="center", va="bottom", fontsize=FONT_SIZE, color="0.3")
    return axes, scale < 1
