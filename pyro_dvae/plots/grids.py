"""Grids of images: samples, and what noise and model make of data."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.plots import figures
from pyro_dvae.plots.mosaics import TEXT_WIDTH, checked_images, mosaic_of, note_of, picture_of

SHOWN = 12  # images in a denoising grid


def image_grid(
    path: str | os.PathLike[str],
    images: Any,
    image_shape: Sequence[int],
    columns: int | None = None,
    title: str | None = None,
) -> Path:
    """Draw images ``[N, D]`` as a grid, row by row: samples from the prior, say.

    ``image_shape`` is (height, width) with height · width = D. Without ``columns`` the grid is about square.
    """
    tiles = checked_images("images", images, image_shape)
    count, height, width = tiles.shape
    if columns is None:
        columns = min(count, math.ceil(math.sqrt(count * height / width)))
    columns = min(checks.count("columns", columns), count)
    mosaic, _ = mosaic_of(tiles, math.ceil(count / columns), columns, gap=2)
    figure, _ = picture_of(mosaic, title, note_of(tiles))
    return figures.write_figure(path, figure)


def denoising_grid(
    path: str | os.PathLike[str],
    clean: Any,
    corrupted: Any,
    reconstructed: Any,
    image_shape: Sequence[int],
    title: str | None = None,
) -> Path:
    """Draw the first dozen of images ``[N, D]`` in three labelled rows: clean, corrupted, reconstructed.

    Values outside [0, 1], as Gaussian noise gives, are clipped for display, and the picture says so.
    """
    rows = {
        "clean": checked_images("clean", clean, image_shape),
        "corrupted": checked_images("corrupted", corrupted, image_shape),
        "reconstructed": checked_images("reconstructed", reconstructed, image_shape),
    }
    count = len(rows["clean"])
    for argument, values in rows.items():
        if len(values) != count:
            raise InputError(f"{argument}: expected {count} images as in clean, got {len(values)}")
    tiles = np.concatenate([values[:SHOWN] for values in rows.values()])
    mosaic, (tile_height, _) = mosaic_of(tiles, 3, min(count, SHOWN), gap=2)
    label_width = math.ceil(TEXT_WIDTH * len("reconstructed")) + 8
    figure, axes = picture_of(mosaic, title, note_of(tiles), left=label_width)
    axes.set_yticks([(tile_height + 2) * row + tile_height / 2 for row in range(3)], labels=rows)
    return figures.write_figure(path, figure)
