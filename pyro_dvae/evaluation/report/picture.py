"""The picture of a bounds report: dots with error bars, in order."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pyro_dvae import plots
from pyro_dvae.errors import InputError

STYLES = {
    "lower": ("#0072B2", "o", "lower bound of log p(x)"),
    "upper": ("#D55E00", "v", "upper bound of L_cvae, not of log p(x)"),
    "estimate": ("#222222", "D", "log p(x), importance sampling"),
}


def bounds_picture(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    means: Sequence[float],
    errors: Sequence[float],
    inner_errors: Sequence[float],
    kinds: Sequence[str],
    title: str | None = None,
) -> Path:
    """Draw one row per bound, the first on top, with its value at the right edge.

    :param means: nats per datum; a row whose mean is not finite is left empty.
    :param errors: standard error over the data (thin bar); NaN where there is none.
    :param inner_errors: standard error without what all bounds share, the spread of the data (thick bar).
    :param kinds: ``"lower"``, ``"upper"`` or ``"estimate"``.
    """
    if not any(math.isfinite(mean) for mean in means):
        raise InputError("means: expected at least one finite value, got none")
    figure = plots.new_figure(8.0, 2.2 + 0.3 * len(labels), layout="constrained")
    axes = figure.add_subplot()
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
    values.set_yticks(range(len(labels)), labels=[_value(mean) for mean in means])
    values.tick_params(length=0)
    axes.margins(x=0.06)
    axes.set_xlabel("nats per datum")
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for each in (axes, values):
        each.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize=plots.FONT_SIZE,
        title=textwrap.fill(title, 80) if title else None,
        title_fontsize=plots.FONT_SIZE + 2,
    )
    note = (
        "thin bar: standard error of the mean over the data; "
        "thick bar: of the difference to log p(x), datum by datum"
    )
    figure.supxlabel(note, fontsize=plots.FONT_SIZE - 1, color="0.35")
    return plots.write_figure(path, figure)


def _value(mean: float) -> str:
    return f"{mean:.3f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(mean) else "not finite"
