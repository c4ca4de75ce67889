"""Bounds of one pair, beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.plots.figures import BLUE, DARK, ORANGE, axes_of, legend_above, note_below, number

STYLES = {
    "lower": (BLUE, "o", "lower bound of log p(x)"),
    "upper": (ORANGE, "v", "upper bound of L_cvae, not of log p(x)"),
    "estimate": (DARK, "D", "log p(x), importance sampling"),
}


def bounds(
    labels: Sequence[str],
    means: Sequence[float],
    errors: Sequence[float],
    inner_errors: Sequence[float],
    kinds: Sequence[str],
    *,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw one row per bound, the first on top, with its value at the right edge.

    :param means: nats per observation; a row whose mean is not finite is left empty.
    :param errors: standard error over the data (thin bar); NaN where there is none.
    :param inner_errors: standard error without what all bounds share, the spread of the data (thick bar).
    :param kinds: ``"lower"``, ``"upper"`` or ``"estimate"``.
    :param ax: matplotlib axes to draw on; by default those of a new figure.
    :returns: the axes.
    """
    if not any(math.isfinite(mean) for mean in means):
        raise InputError("means: expected at least one finite value, got none")
    axes = axes_of(ax, 8.0, 2.2 + 0.3 * len(labels), title)
    for kind, (colour, marker, legend) in STYLES.items():
        rows = [i for i, mean in enumerate(means) if kinds[i] == kind and math.isfinite(mean)]
        for row in rows:
            for error, width in ((errors[row], 1.0), (inner_errors[row], 4.0)):
                if math.isfinite(error):
                    axes.hlines(row, means[row] - error, means[row] + error, color=colour, linewidth=width)
            if kind == "estimate":
                axes.axvline(means[row], color=colour, linewidth=0.8, linestyle="--", zorder=0)
        if rows:
            axes.plot(
                [means[row] for row in rows],
                rows,
                marker,
                color=colour,
                markersize=6,
                markeredgecolor="white",
                label=legend,
            )
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), labels=labels)
    values = axes.twinx()
    values.set_ylim(axes.get_ylim())
    values.set_yticks(range(len(labels)), labels=[number(mean, 3) for mean in means])
    values.tick_params(length=0)
    axes.margins(x=0.06)
    axes.set_xlabel("nats per datum")
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for each in (axes, values):
        each.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend_above(axes)
    note_below(
        axes,
        "thin bar: standard error of the mean over the data\n"
        "thick bar: of the difference to log p(x), row by row",
    )
    return axes
