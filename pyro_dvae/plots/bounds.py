"""Bounds of a model and guide in comparison, and inference gaps as stacked bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
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
    :param errors: standard error over the data (thin bar); NaN if unknown.
    :param inner_errors: standard error without the spread of the data, which all bounds share (thick bar).
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
    axes.set_xlabel("nats per observation")
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


_PARTS = (
    ("approximation gap, full", "full Gaussian's approximation gap", "#0072B2"),
    ("approximation gap, diagonal", "what a diagonal covariance adds", "#56B4E9"),
    ("amortisation gap, diagonal", "amortisation gap", "#D55E00"),
)


def inference_gaps(
    gaps: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str | None = None, ax: Any = None
) -> Any:
    """Draw the parts of log p(x) − L[encoder] (nats, means over rows) as stacked bars, one for each set.

    :param gaps: ``InferenceGaps.means()`` for each set of rows, such as training and test. The error bar
        belongs to the amortisation gap.
    :param ax: matplotlib axes to draw on; by default those of a new figure.
    :returns: the axes.
    """
    if not isinstance(gaps, Mapping) or not gaps:
        raise InputError(f"gaps: expected the means of at least one set of rows, got {shown(gaps)}")
    axes = axes_of(ax, 7.0, 1.4 + 0.5 * len(gaps), title)
    longest = 0.0
    for place, means in enumerate(gaps.values()):
        left, before = 0.0, 0.0
        for key, label, colour in _PARTS:
            mean, error = means[checks.known("gaps", key, means)]
            # The diagonal gap includes the gap of the full covariance.
            width = mean - before if key == "approximation gap, diagonal" else mean
            before = mean
            bar = {"xerr": error, "capsize": 3} if key.startswith("amortisation") else {}
            axes.barh(place, width, left=left, color=colour, label=None if place else label, **bar)
            left += width
        end = left + error  # of the last part
        axes.annotate(f"{left:.1f}", (end, place), va="center", xytext=(8, 0), textcoords="offset points")
        longest = max(longest, end)
    axes.set_yticks(range(len(gaps)), list(gaps))
    axes.invert_yaxis()
    axes.set_xlim(right=1.25 * longest or None)  # room for the numbers
    axes.set_xlabel("log p(x) less the encoder's bound (nats per row)")
    legend_above(axes)
    return axes
