"""Pictures: from plain arrays or tensors to a PNG file, without matplotlib's global state.

Every function checks its input, draws in memory, writes beside ``path`` and moves the file into place, so
an older picture is only ever replaced by a whole new one; each returns the :class:`~pathlib.Path` written.
Missing folders are made. matplotlib is needed when a picture is drawn, not when this module is imported.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_dvae import checks
from pyro_dvae.errors import InputError

SHOWN = 12  # images in a denoising grid
DPI = 100
MARGIN = 12  # screen pixels of white around a picture of images
TEXT_WIDTH, LINE_HEIGHT = 6.6, 18  # screen pixels of a character and a line at the font size below
FONT_SIZE = 9
NARROWEST, WIDEST = 320, 2400  # screen pixels: room for the note; where large images begin to be reduced
GAP_COLOUR = "#cfd8e6"
NOTE = "pixel intensity 0 (black) to 1 (white)"
CLIPPED = "; values outside [0, 1] are clipped for display"


def learning_curves(
    path: str | os.PathLike[str],
    epochs: Any,
    train_bound: Any,
    validation_bound: Any,
    best_epoch: int | None = None,
    title: str | None = None,
) -> Path:
    """Draw the training and validation bound (nats per datum, higher is better) against the epoch.

    The three arrays have one entry per epoch; None, NaN and infinite bounds are left out, and a curve without
    any value is not drawn. The first epochs and lone outliers, often hundreds of nats lower, are left outside
    the picture so that the rest can be read; the picture then says how many values that are.
    """
    steps = _numbers("epochs", epochs)
    curves = {
        "training (corrupted input)": _numbers("train_bound", train_bound),
        "validation (clean input)": _numbers("validation_bound", validation_bound),
    }
    for argument, values in zip(("train_bound", "validation_bound"), curves.values(), strict=True):
        if values.shape != steps.shape:
            raise InputError(f"{argument}: expected {steps.size} values, one per epoch, got {values.size}")
    if not np.isfinite(steps).all():
        raise InputError("epochs: expected finite numbers, got NaN or infinity")
    curves = {label: values for label, values in curves.items() if np.isfinite(values).any()}
    if not curves:
        raise InputError("train_bound, validation_bound: expected at least one finite value, got none")
    if best_epoch is not None and checks.number("best_epoch", best_epoch) not in steps:
        raise InputError(f"best_epoch: expected one of the epochs, got {best_epoch!r}")

    figure = new_figure(7.0, 4.4, layout="constrained")
    axes = figure.add_subplot()
    for (label, values), (colour, width) in zip(
        curves.items(), (("#0072B2", 1.2), ("#D55E00", 2)), strict=False
    ):
        seen = np.isfinite(values)
        marker = "o" if seen.sum() <= 25 else None
        axes.plot(
            steps[seen], values[seen], color=colour, linewidth=width, marker=marker, markersize=4, label=label
        )
    if best_epoch is not None:
        axes.axvline(best_epoch, color="0.35", linewidth=1, linestyle="--", label=f"best epoch: {best_epoch}")
    shown = [_readable(values) for values in curves.values()]
    if best_epoch is not None:
        shown += [values[(steps == best_epoch) & np.isfinite(values)] for values in curves.values()]
    low, high = float(np.concatenate(shown).min()), float(np.concatenate(shown).max())
    margin = 0.05 * (high - low) or max(1e-3 * abs(high), 0.5)
    axes.set_ylim(low - margin, high + margin)
    if steps.min() == steps.max():
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound (nats per datum)")
    axes.ticklabel_format(useOffset=False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axes.legend(**place, ncols=3, frameon=False, fontsize=FONT_SIZE)
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=FONT_SIZE + 2)
    drawn = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    outside = int(((drawn < low - margin) | (drawn > high + margin)).sum())
    if outside:
        note = f"{outside} value{'s lie' if outside > 1 else ' lies'} outside the picture"
        figure.supxlabel(note, x=0.99, ha="right", fontsize=FONT_SIZE - 1, color="0.35")
    return write_figure(path, figure)


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
    tiles = _images("images", images, image_shape)
    count, height, width = tiles.shape
    if columns is None:
        columns = min(count, math.ceil(math.sqrt(count * height / width)))
    columns = min(checks.count("columns", columns), count)
    mosaic, _ = _mosaic(tiles, math.ceil(count / columns), columns, gap=2)
    figure, _ = _picture(mosaic, title, _note(tiles))
    return write_figure(path, figure)


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
        "clean": _images("clean", clean, image_shape),
        "corrupted": _images("corrupted", corrupted, image_shape),
        "reconstructed": _images("reconstructed", reconstructed, image_shape),
    }
    count = len(rows["clean"])
    for argument, values in rows.items():
        if len(values) != count:
            raise InputError(f"{argument}: expected {count} images as in clean, got {len(values)}")
    tiles = np.concatenate([values[:SHOWN] for values in rows.values()])
    mosaic, (tile_height, _) = _mosaic(tiles, 3, min(count, SHOWN), gap=2)
    label_width = math.ceil(TEXT_WIDTH * len("reconstructed")) + 8
    figure, axes = _picture(mosaic, title, _note(tiles), left=label_width)
    axes.set_yticks([(tile_height + 2) * row + tile_height / 2 for row in range(3)], labels=rows)
    return write_figure(path, figure)


def manifold_codes(rows: int, columns: int, low: float = 0.05, high: float = 0.95) -> torch.Tensor:
    """Return the latent codes ``[rows * columns, 2]`` of a 2-D manifold picture, by rows from its top left.

    The values z₁ and z₂ are the standard Gaussian quantiles of equally spaced probabilities in [low, high]:
    z₁ grows to the right, z₂ upwards. Decode them and pass the images to :func:`manifold`.
    """
    first, second = _quantiles(columns, low, high, "columns"), _quantiles(rows, low, high, "rows").flip(0)
    grid = torch.stack([first.expand(rows, columns), second[:, None].expand(rows, columns)], dim=-1)
    return grid.reshape(-1, 2).to(torch.get_default_dtype())


def manifold(
    path: str | os.PathLike[str],
    images: Any,
    image_shape: Sequence[int],
    rows: int,
    columns: int,
    title: str | None = None,
    *,
    low: float = 0.05,
    high: float = 0.95,
) -> Path:
    """Draw images ``[rows * columns, D]``, decoded from :func:`manifold_codes`, as tiles without gaps.

    The axes carry the latent values z₁ and z₂ of the tiles; ``low`` and ``high`` as given to the codes.
    """
    tiles = _images("images", images, image_shape)
    first, second = _quantiles(columns, low, high, "columns"), _quantiles(rows, low, high, "rows").flip(0)
    if len(tiles) != rows * columns:
        raise InputError(f"images: expected rows * columns = {rows * columns} images, got {len(tiles)}")
    mosaic, (tile_height, tile_width) = _mosaic(tiles, rows, columns, gap=0)
    figure, axes = _picture(mosaic, title, _note(tiles), left=62, below=46)
    across, down = _ticks(columns, tile_width, 46), _ticks(rows, tile_height, 22)
    axes.set_xticks([(i + 0.5) * tile_width for i in across], labels=[_label(first[i]) for i in across])
    axes.set_yticks([(i + 0.5) * tile_height for i in down], labels=[_label(second[i]) for i in down])
    axes.tick_params(length=3)
    axes.set_xlabel("z₁", fontsize=FONT_SIZE + 3, labelpad=2)
    axes.set_ylabel("z₂", fontsize=FONT_SIZE + 3, labelpad=2)
    return write_figure(path, figure)


def _quantiles(count: int, low: float, high: float, argument: str) -> torch.Tensor:
    checks.count(argument, count)
    low, high = checks.positive("low", low), checks.positive("high", high)
    if not low < high < 1:
        raise InputError(f"low, high: expected 0 < low < high < 1, got {low:g} and {high:g}")
    if count == 1:
        low = high = (low + high) / 2
    return torch.special.ndtri(torch.linspace(low, high, count, dtype=torch.float64))


def _ticks(count: int, tile: int, spacing: int) -> range:
    """Numbers of the tiles to label: evenly spaced, at most 21, and ``spacing`` screen pixels apart."""
    step = max(math.ceil(spacing / tile), math.ceil(count / 21))
    return range((count - 1) % step // 2, count, step)


def _label(value: torch.Tensor) -> str:
    return f"{round(value.item(), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _numbers(argument: str, values: Any) -> np.ndarray:
    """Return a 1-D sequence, array or tensor as float64, None as NaN."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().cpu().numpy()
    if isinstance(values, np.ndarray):
        values = values.tolist()
    try:
        array = np.asarray([math.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        raise InputError(f"{argument}: expected a sequence of numbers, got {type(values).__name__}") from None
    if array.size == 0:
        raise InputError(f"{argument}: expected at least one value, got none")
    return array


def _readable(values: np.ndarray) -> np.ndarray:
    """The values a reader looks for: no burn-in (the first tenth), no outlier far below the quartiles."""
    kept = values[values.size // 10 :]
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        return values[np.isfinite(values)]
    lower, upper = np.quantile(kept, [0.25, 0.75])
    return kept[kept >= lower - 3 * (upper - lower)]


def _images(argument: str, images: Any, image_shape: Sequence[int]) -> np.ndarray:
    """Return images ``[N, D]`` as float64 ``[N, height, width]``, or refuse them."""
    try:
        height, width = image_shape
    except (TypeError, ValueError):
        raise InputError(f"image_shape: expected (height, width), got {image_shape!r}") from None
    checks.count("image_shape", height)
    checks.count("image_shape", width)
    try:
        if isinstance(images, torch.Tensor):
            images = images.detach().double().cpu().numpy()
        tensor = torch.from_numpy(np.array(images, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{argument}: expected an array [N, D], got {type(images).__name__}") from None
    checks.finite(argument, tensor)
    if tensor.ndim != 2 or tensor.shape[1] != height * width:
        expected = f"[N, {height * width}] for images of {height} x {width}"
        raise InputError(f"{argument}: expected shape {expected}, got {tuple(tensor.shape)}")
    return tensor.reshape(-1, height, width).numpy()


def _note(tiles: np.ndarray) -> str:
    return NOTE + (CLIPPED if tiles.min() < 0 or tiles.max() > 1 else "")


def _mosaic(tiles: np.ndarray, rows: int, columns: int, gap: int) -> tuple[Any, tuple[int, int]]:
    """Put the tiles in one array, enlarged by whole factors; gaps hold 2, empty places are masked.

    The picture becomes about 900 screen pixels wide, and no tile is drawn under 16 pixels high or wide: an
    image of one row is stretched. Returns the array and the (height, width) of a tile in it.
    """
    count, height, width = tiles.shape
    wanted = min(
        max(900 / max(rows * height, columns * width), 28 / max(height, width)), 240 / max(height, width)
    )
    zoom = max(1, round(wanted))
    down, across = max(zoom, math.ceil(16 / height)), max(zoom, math.ceil(16 / width))
    tile_height, tile_width = height * down, width * across
    pitch_down, pitch_across = tile_height + gap, tile_width + gap
    mosaic = np.full((rows * pitch_down, columns * pitch_across), np.nan)
    for index in range(count):
        top, left = index // columns * pitch_down, index % columns * pitch_across
        mosaic[top : top + pitch_down, left : left + pitch_across] = 2.0
        enlarged = tiles[index].clip(0, 1).repeat(down, axis=0).repeat(across, axis=1)
        mosaic[top : top + tile_height, left : left + tile_width] = enlarged
    trimmed = mosaic[: mosaic.shape[0] - gap, : mosaic.shape[1] - gap]
    return np.ma.masked_invalid(trimmed), (tile_height, tile_width)


def _picture(mosaic: Any, title: str | None, note: str, left: int = 0, below: int = 0) -> tuple[Any, Any]:
    """Return a figure and its axes that show the mosaic one to one (or reduced to the widest figure).

    ``left`` and ``below`` are screen pixels for tick labels; axes coordinates are pixels of the mosaic.
    """
    height, width = mosaic.shape
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
    from matplotlib import colormaps

    axes.imshow(
        mosaic,
        cmap=colormaps["gray"].with_extremes(bad="white", over=GAP_COLOUR),
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        aspect="auto",
        interpolation="nearest" if scale == 1 else "hanning",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0, pad=4, labelsize=FONT_SIZE)
    axes.spines[:].set_visible(False)
    middle = (start + round(width * scale) / 2) / full_width if left == 0 else 0.5
    if heading:
        place = 1 - MARGIN / 2 / full_height
        figure.text(middle, place, "\n".join(heading), ha="center", va="top", fontsize=FONT_SIZE + 2)
    place = MARGIN / 2 / full_height
    figure.text(middle, place, "\n".join(legend), ha="center", va="bottom", fontsize=FONT_SIZE, color="0.3")
    return figure, axes


def new_figure(width: float, height: float, **options: Any) -> Any:
    """Return an empty white matplotlib figure (inches), outside pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib: pip install matplotlib") from None
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def write_figure(path: str | os.PathLike[str], figure: Any) -> Path:
    """Write the figure as PNG: drawn in memory, written beside ``path``, moved into place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    try:
        target = Path(path)
    except TypeError:
        raise InputError(f"path: expected a file name ending in .png, got {path!r}") from None
    if target.suffix.lower() != ".png":
        raise InputError(f"path: expected a file name ending in .png, got {str(path)!r}")
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    beside = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(drawn.getvalue())
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"path: cannot write {str(target)!r} ({error.strerror or error})") from None
    return target
