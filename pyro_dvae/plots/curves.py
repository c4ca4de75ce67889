"""Bounds over the epochs."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.plots.figures import BLUE, ORANGE, axes_of, legend_above, note_below, numbers_of


def learning_curves(
    epochs: Any,
    train_bound: Any,
    validation_bound: Any,
    best_epoch: int | None = None,
    *,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the training and validation bound (nats per observation, higher is better) against the epoch.

    The three arrays have one entry per epoch; None, NaN and infinite bounds are left out, and a curve without
    any value is not drawn. The first epochs and single outliers, often hundreds of nats lower, are outside
    the plot so that the rest can be read; the plot states how many values are not shown.

    :param ax: matplotlib axes to draw on; by default those of a new figure.
    :returns: the axes.
    """
    steps = numbers_of("epochs", epochs)
    curves = {
        "training (corrupted input)": numbers_of("train_bound", train_bound),
        "validation (clean input)": numbers_of("validation_bound", validation_bound),
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

    axes = axes_of(ax, 7.0, 4.4, title)
    for (label, values), (colour, width) in zip(curves.items(), ((BLUE, 1.2), (ORANGE, 2)), strict=False):
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
    axes.set_ylabel("bound (nats per observation)")
    axes.ticklabel_format(useOffset=False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    legend_above(axes)
    drawn = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    outside = int(((drawn < low - margin) | (drawn > high + margin)).sum())
    if outside:
        note_below(axes, f"{outside} value{'s lie' if outside > 1 else ' lies'} outside the picture")
    return axes


def _readable(values: np.ndarray) -> np.ndarray:
    """Return the values to show: without burn-in (the first tenth) and outliers far below the quartiles."""
    kept = values[values.size // 10 :]
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        return values[np.isfinite(values)]
    lower, upper = np.quantile(kept, [0.25, 0.75])
    return kept[kept >= lower - 3 * (upper - lower)]
