"""Figures of a held-out likelihood, from plain arrays: its spread, its reliability and its convergence.

Non-finite values are left out; the figure states their number.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_dvae.errors import InputError
from pyro_dvae.plots.figures import (
    BLUE,
    DARK,
    FONT_SIZE,
    ORANGE,
    PALE,
    axes_of,
    legend_above,
    new_figure,
    note_below,
    number,
    numbers_of,
)
from pyro_dvae.plots.grids import checked_images, shades

_PER_ROW, _ROWS = 8, 2  # of each block of images
_TILE = 1.0  # inches


def log_likelihood_histogram(log_likelihood: Any, *, title: str | None = None, ax: Any = None) -> Any:
    """Draw a histogram of log p(x) (nats) of the rows [N]."""
    values, left_out = _finite("log_likelihood", log_likelihood)
    axes = _axes(ax, title)
    bins = min(80, max(1, len(np.histogram_bin_edges(values, "fd")) - 1)) if np.ptp(values) > 0 else 1
    axes.hist(values, bins=bins, color=PALE, edgecolor="white", linewidth=0.4)
    mean, median = float(values.mean()), float(np.median(values))
    axes.axvline(mean, color=DARK, linewidth=1.4, label=f"mean {number(mean)} nats")
    axes.axvline(median, color=ORANGE, linewidth=1.4, linestyle="--", label=f"median {number(median)} nats")
    axes.set_xlabel("log p(x) (nats)")
    axes.set_ylabel("test data")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return _finished(axes, _note(left_out))


def pareto_k(k: Any, threshold: float, *, title: str | None = None, ax: Any = None) -> Any:
    """Plot the Pareto k of each row [N], and the threshold above which an estimate is unreliable.

    A k of −inf (all weights equal) counts as reliable.
    """
    values = numbers_of("k", k)
    finite, above = np.isfinite(values), ~(values <= threshold)
    axes = _axes(ax, title)
    index = np.arange(len(values))
    size = 14 if len(values) <= 500 else 3
    share = 100 * above.mean()
    for chosen, colour, label in (
        (~above, BLUE, f"up to {threshold:.2f}: {100 - share:.1f} % of the data"),
        (above, ORANGE, f"above {threshold:.2f}: {share:.1f} %, not to be trusted"),
    ):
        drawn = chosen & finite
        axes.scatter(index[drawn], values[drawn], s=size, color=colour, linewidths=0, label=label)
    axes.axhline(threshold, color=DARK, linewidth=1.2, linestyle="--")
    axes.set_xlim(-0.02 * len(values) - 0.5, 1.02 * len(values))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, threshold - 0.1), max(high, threshold + 0.1))
    axes.set_xlabel("test datum")
    axes.set_ylabel("Pareto k of its importance weights")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _finished(axes, _note(int((~finite).sum())), markerscale=(20 / size) ** 0.5)


def convergence(
    num_samples: Sequence[int],
    mean_bound: Any,
    sampling_error: float,
    smoothed: float | None = None,
    annealed: tuple[float, float] | None = None,
    *,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the mean estimate (nats) against the number of samples of each observation.

    :param num_samples: ascending, [G].
    :param mean_bound: mean over the data for each of them, [G].
    :param sampling_error: standard error of the last mean from the sampling alone.
    :param smoothed: mean of the Pareto-smoothed estimates.
    :param annealed: mean and sampling error of annealed importance sampling of the same data.
    """
    sizes, bounds = numbers_of("num_samples", num_samples), numbers_of("mean_bound", mean_bound)
    if sizes.shape != bounds.shape:
        raise InputError(f"mean_bound: expected {len(sizes)} values, got {len(bounds)}")
    seen = np.isfinite(bounds)
    if not seen.any():
        raise InputError("mean_bound: expected at least one finite value, got none")
    axes = _axes(ax, title)
    label = "importance sampling: a lower bound in expectation"
    axes.plot(sizes[seen], bounds[seen], "o-", color=BLUE, markersize=4, label=label)
    if math.isfinite(sampling_error) and seen[-1]:
        axes.errorbar(sizes[-1:], bounds[-1:], sampling_error, color=BLUE, capsize=3, zorder=3)
    if smoothed is not None and math.isfinite(smoothed):
        label = f"Pareto-smoothed, not a lower bound: {number(smoothed)}"
        axes.axhline(smoothed, color=ORANGE, linestyle="--", linewidth=1.2, label=label)
    if annealed is not None and math.isfinite(annealed[0]):
        mean, error = annealed
        label = f"annealed, also a lower bound: {number(mean)}"
        axes.axhline(mean, color=DARK, linestyle=":", linewidth=1.4, label=label)
        if math.isfinite(error):
            axes.axhspan(mean - error, mean + error, color=DARK, alpha=0.1, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("importance samples per observation")
    axes.set_ylabel("mean log p(x) (nats)")
    axes.ticklabel_format(axis="y", useOffset=False)
    return _finished(axes, f"with {int(sizes[-1]):,} samples: {number(bounds[-1])} nats", columns=1)


def kl_per_dimension(
    kl: Any, activity: Any = None, threshold: float = 0.01, *, title: str | None = None, ax: Any = None
) -> Any:
    """Draw the mean KL (nats) of each latent dimension [d], the largest first.

    :param activity: variance of the posterior means over the data, [d]; colours the active dimensions.
    :param threshold: a dimension is active if its activity exceeds this.
    """
    values = numbers_of("kl", kl)
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf))
    axes = _axes(ax, title)
    place = np.arange(1, len(values) + 1)
    if activity is None:
        axes.bar(place, values[order], color=BLUE, width=0.85)
    else:
        variances = numbers_of("activity", activity)
        if variances.shape != values.shape:
            raise InputError(f"activity: expected {len(values)} values, got {len(variances)}")
        active = (variances > threshold)[order]
        for chosen, colour, name in ((active, BLUE, "active"), (~active, "0.7", "inactive")):
            if not chosen.any():
                continue
            label = f"{name}: {int(chosen.sum())} of {len(values)}"
            axes.bar(place[chosen], values[order][chosen], color=colour, width=0.85, label=label)
    axes.set_xlim(0.2, len(values) + 0.8)
    axes.set_xlabel("latent dimension, the largest KL first")
    axes.set_ylabel("KL(q(z|x) ‖ p(z)), mean (nats)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    note = (
        ""
        if activity is None
        else f"active: variance of the posterior mean over the data above {threshold:g}"
    )
    return _finished(axes, note)


def hardest_and_easiest(
    images: Any,
    log_likelihood: Any,
    image_shape: Sequence[int],
    *,
    limits: Sequence[float] = (0.0, 1.0),
    title: str | None = None,
    figure: Any = None,
) -> list[Any]:
    """Draw the images with the lowest and the highest log p(x) [N], with number and value of each.

    :param images: [N, D] or [N, *image_shape].
    :param image_shape: (height, width), or (channels, height, width) with 1 or 3 channels.
    :param limits: the values shown in black and in white, as for :func:`image_grid`.
    :param figure: a matplotlib figure or subfigure for the images; by default a new figure.
    :returns: the axes of the images.
    """
    values = numbers_of("log_likelihood", log_likelihood)
    pixels, shown_as = shades(checked_images("images", images, image_shape), limits)
    height, width = pixels.shape[1:3]
    if len(pixels) != len(values):
        raise InputError(f"images: expected {len(values)}, one for each log_likelihood, got {len(pixels)}")
    order = np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")
    count = min(_PER_ROW * _ROWS, max(1, len(values) // 2))
    blocks = {"hardest: the lowest log p(x)": order[:count], "easiest: the highest": order[::-1][:count]}
    rows = math.ceil(count / _PER_ROW)
    stretch = min(max(height / width, 0.5), 2.0)
    inches = 2 * rows * (_TILE * stretch + 0.45) + 1.5
    if figure is None:
        figure = new_figure(_PER_ROW * (_TILE + 0.12) + 0.3, inches, layout="constrained")
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=FONT_SIZE + 2)
    drawn: list[Any] = []
    for part, (name, chosen) in zip(figure.subfigures(2, 1), blocks.items(), strict=True):
        part.suptitle(name, x=0.006, ha="left", fontsize=FONT_SIZE + 1, fontweight="bold")
        tiles = part.subplots(rows, _PER_ROW, squeeze=False).ravel()
        for axes in tiles[len(chosen) :]:
            axes.set_visible(False)
        drawn += list(tiles[: len(chosen)])
        for axes, index in zip(tiles, chosen, strict=False):
            shape = "equal" if 0.5 <= height / width <= 2 else "auto"
            axes.imshow(pixels[index], cmap="gray", vmin=0, vmax=1, aspect=shape, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"no. {index}", fontsize=FONT_SIZE - 2, color="0.35", pad=2)
            axes.set_xlabel(number(values[index], 1), fontsize=FONT_SIZE, labelpad=2)
            axes.spines[:].set_color("0.8")
    note = f"below each: log p(x) (nats); above: its number among the test data, from 0; {shown_as}"
    figure.supxlabel(textwrap.fill(note, 120), fontsize=FONT_SIZE - 1, color="0.35")
    return drawn


def _axes(ax: Any, title: str | None) -> Any:
    axes = axes_of(ax, 7.2, 4.4, title)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _finished(axes: Any, note: str, columns: int = 2, **legend: Any) -> Any:
    legend_above(axes, columns, **legend)
    note_below(axes, note)
    return axes


def _note(left_out: int) -> str:
    return f"{left_out} of the values not finite, and left out" if left_out else ""


def _finite(argument: str, values: Any) -> tuple[np.ndarray, int]:
    """Return the finite values, and the number of others."""
    array = numbers_of(argument, values)
    kept = array[np.isfinite(array)]
    if kept.size == 0:
        raise InputError(f"{argument}: expected at least one finite value, got none")
    return kept, array.size - kept.size
