"""Figures of tables: observed against reconstructed values, errors by column, codes in two dimensions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_dvae.errors import InputError
from pyro_dvae.plots.figures import COLOURS, FONT_SIZE, array_of, axes_of, new_figure

_PANELS, _POINTS, _BARS = 9, 2000, 30


def observed_and_reconstructed(
    observed: Mapping[str, Any],
    reconstructed: Mapping[str, Any],
    *,
    title: str | None = None,
    figure: Any = None,
) -> list[Any]:
    """Draw reconstructed against observed values [N] of the first nine columns, in original units.

    The line is where both are equal.

    :param figure: a matplotlib figure or subfigure for the panels; by default a new figure.
    :returns: the axes of the panels.
    """
    pairs = _pairs(observed, reconstructed)
    chosen = list(pairs.items())[:_PANELS]
    across = math.ceil(math.sqrt(len(chosen)))
    down = math.ceil(len(chosen) / across)
    if figure is None:
        figure = new_figure(2.6 * across + 0.4, 2.5 * down + 0.8, layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).ravel())
    for axes in panels[len(chosen) :]:
        axes.set_visible(False)
    for panel, (axes, (name, (x, y))) in enumerate(zip(panels, chosen, strict=False)):
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axes.plot([low, high], [low, high], color="0.6", linewidth=1)
        axes.plot(x[:_POINTS], y[:_POINTS], ".", color=COLOURS[0], markersize=3, alpha=0.5)
        axes.set_title(_short(name), fontsize=FONT_SIZE)
        axes.tick_params(labelsize=FONT_SIZE - 2)
        if panel % across == 0:
            axes.set_ylabel("reconstructed", fontsize=FONT_SIZE - 1)
        if panel >= len(chosen) - across:
            axes.set_xlabel("observed", fontsize=FONT_SIZE - 1)
    left_out = f"; the first {_PANELS} of {len(pairs)} columns" if len(pairs) > _PANELS else ""
    figure.suptitle(textwrap.fill(f"{title or 'Test rows'}{left_out}", 26 * across), fontsize=FONT_SIZE + 1)
    return panels[: len(chosen)]


def column_errors(
    observed: Mapping[str, Any],
    reconstructed: Mapping[str, Any],
    *,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the share of each column's variance that reconstructions leave unexplained, the worst first.

    0 means perfect reconstruction, 1 no better than the column's mean. Columns that do not vary are left out.

    :param ax: matplotlib axes to draw on; by default those of a new figure.
    :returns: the axes.
    """
    errors = {}
    for name, (x, y) in _pairs(observed, reconstructed).items():
        variance = float(x.var())
        if variance > 0:
            errors[name] = float(np.square(x - y).mean()) / variance
    shown = sorted(errors.items(), key=lambda each: -each[1])[:_BARS]
    left_out = f"; the worst {_BARS} of {len(errors)} columns" if len(errors) > _BARS else ""
    axes = axes_of(ax, 6.4, 0.24 * len(shown) + 1.3, f"{title or 'Test rows'}{left_out}")
    places = np.arange(len(shown))[::-1]
    axes.barh(places, [error for _, error in shown], color=COLOURS[0], height=0.7)
    axes.set_yticks(places, labels=[_short(name) for name, _ in shown], fontsize=FONT_SIZE - 1)
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set_xlim(left=0)
    if not shown:
        axes.text(0.5, 0.5, "no column varies in these rows", ha="center", transform=axes.transAxes)
    axes.set_xlabel("squared error / variance of the column (1: no better than its mean)", fontsize=FONT_SIZE)
    return axes


def latent_scatter(codes: Any, labels: Any = None, *, title: str | None = None, ax: Any = None) -> Any:
    """Draw codes [N, d] on their first two principal axes, coloured by label [N] if given.

    :param ax: matplotlib axes to draw on; by default those of a new figure.
    :returns: the axes.
    """
    values = array_of("codes", codes)
    if values.ndim != 2 or len(values) < 2:
        raise InputError(f"codes: expected at least two rows [N, d], got shape {list(values.shape)}")
    centred = values - values.mean(0)
    _, spread, principal = np.linalg.svd(centred, full_matrices=False)
    share = np.square(spread) / max(np.square(spread).sum(), 1e-300)
    if len(share) < 2:
        share, principal = np.append(share, 0.0), np.vstack([principal, np.zeros_like(principal)])
    x, y = (centred @ principal[:2].T).T
    axes = axes_of(ax, 5.6, 4.6, title or "Codes of the test rows")
    classes = [None] if labels is None else list(np.unique(array_of("labels", labels)))
    few = len(classes) <= len(COLOURS)
    groups = classes if few else [None]
    for colour, each in zip(COLOURS, groups, strict=False):
        own = slice(None) if each is None else array_of("labels", labels) == each
        name = None if each is None else f"class {each:g}"
        axes.plot(x[own], y[own], ".", color=colour, markersize=4, alpha=0.6, label=name)
    if groups != [None]:
        axes.legend(fontsize=FONT_SIZE - 1, frameon=False)
    axes.set_xlabel(f"first principal axis of the codes ({100 * share[0]:.0f} % of their variance)")
    axes.set_ylabel(f"second ({100 * share[1]:.0f} %)")
    return axes


def _pairs(observed: Mapping[str, Any], reconstructed: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the numeric columns of both arrays."""
    pairs = {}
    for name, values in observed.items():
        x = np.asarray(values)
        if x.dtype.kind not in "buif":
            continue
        y = array_of(f"reconstructed[{name!r}]", reconstructed.get(name))
        if x.shape != y.shape or x.ndim != 1:
            raise InputError(
                f"reconstructed: expected {list(x.shape)} values of {name!r}, got {list(y.shape)}"
            )
        pairs[name] = (x.astype(float), y)
    if not pairs:
        raise InputError("observed: expected at least one column of numbers, got none")
    return pairs


def _short(name: str) -> str:
    name = f"column {name}" if name.isdigit() else name
    return name if len(name) <= 24 else name[:22] + "…"
