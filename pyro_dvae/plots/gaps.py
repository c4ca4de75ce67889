"""The gaps of inference as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.plots.figures import axes_of, legend_above

_PARTS = (
    ("approximation gap, full", "full Gaussian's approximation gap", "#0072B2"),
    ("approximation gap, diagonal", "what a diagonal covariance adds", "#56B4E9"),
    ("amortisation gap, diagonal", "amortisation gap", "#D55E00"),
)


def inference_gaps(
    gaps: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str | None = None, ax: Any = None
) -> Any:
    """Draw the parts of log p(x) − L[encoder] (nats, means over rows) as stacked bars, one for each set.

    :param gaps: for each set of rows, such as training and test, ``InferenceGaps.means()``. The error bar is
        that of the amortisation gap.
    :param ax: matplotlib axes to draw on; by default those of a new figure.
    :returns: the axes.
    """
    if not isinstance(gaps, Mapping) or not gaps:
        raise InputError(f"gaps: expected the means of at least one set of rows, got {shown(gaps)}")
    axes = axes_of(ax, 7.0, 1.4 + 0.5 * len(gaps), title)
    for place, means in enumerate(gaps.values()):
        left, before = 0.0, 0.0
        for key, label, colour in _PARTS:
            mean, error = means[checks.known("gaps", key, means)]
            # The diagonal gap holds that of the full covariance.
            width = mean - before if key == "approximation gap, diagonal" else mean
            before = mean
            bar = {"xerr": error, "capsize": 3} if key.startswith("amortisation") else {}
            axes.barh(place, width, left=left, color=colour, label=None if place else label, **bar)
            left += width
        axes.annotate(f" {left:.1f}", (left, place), va="center", xytext=(8, 0), textcoords="offset points")
    axes.set_yticks(range(len(gaps)), list(gaps))
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("log p(x) less the encoder's bound (nats per row)")
    legend_above(axes)
    return axes
