"""Axes to draw on without matplotlib's global state, and saving of figures."""

from __future__ import annotations

import io
import math
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_dvae.errors import InputError, shown
from pyro_dvae.files import user_path, write_atomically
from pyro_dvae.text import visible

DPI = 100
FONT_SIZE = 9
BLUE, ORANGE, DARK, PALE = "#0072B2", "#D55E00", "#222222", "#9ecae1"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def new_figure(width: float, height: float, **options: Any) -> Any:
    """Return an empty white matplotlib figure (inches), outside pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib: pip install matplotlib") from None
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def axes_of(ax: Any, width: float, height: float, title: str | None = None) -> Any:
    """Return ``ax``, or the axes of a new figure of that size (inches), with the title."""
    if ax is None:
        ax = new_figure(width, height, layout="constrained").add_subplot()
    elif not hasattr(ax, "set_title"):
        raise InputError(f"ax: expected matplotlib axes, got {shown(ax)}")
    if title:
        ax.set_title(textwrap.fill(title, max(20, int(11 * width))), fontsize=FONT_SIZE + 2)
    return ax


def legend_above(axes: Any, columns: int = 3, **options: Any) -> None:
    """Put a legend, if anything has a label, between title and axes; in narrow axes, inside."""
    count = len(axes.get_legend_handles_labels()[1])
    if not count:
        return
    options |= {"frameon": False, "fontsize": FONT_SIZE}
    if axes.get_position().width * axes.figure.figure.get_figwidth() < 4:
        axes.legend(loc="best", **options)
    else:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, **options)
        lines = math.ceil(count / columns)
        axes.set_title(axes.get_title(), fontsize=FONT_SIZE + 2, pad=12 + 15 * lines)


def note_below(axes: Any, note: str) -> None:
    """Add a line under the label of the horizontal axis."""
    if note:
        label = axes.get_xlabel()
        axes.set_xlabel(f"{label}\n{note}" if label else note)


def write_figure(path: str | os.PathLike[str], drawn: Any) -> Path:
    """Write a figure, or the figure of axes, as PNG, atomically.

    :param drawn: a matplotlib figure, or axes as the plot functions return them.
    :raises InputError: the name does not end in .png, or ``drawn`` is neither.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = user_path("path", path)
    if target.suffix.lower() != ".png":
        raise InputError(f"path: expected a file name ending in .png, got {str(path)!r}")
    first = drawn[0] if isinstance(drawn, list) and drawn else drawn
    figure = getattr(getattr(first, "figure", None), "figure", None)  # through a subfigure to its root
    if figure is None:
        raise InputError(f"drawn: expected a matplotlib figure or axes, got {shown(drawn)}")
    _take_names_literally(figure)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    write_atomically(target, content.getvalue())
    return target


def array_of(argument: str, values: Any) -> np.ndarray:
    """Return numbers as a float64 array; None is NaN."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().cpu().numpy()
    elif isinstance(values, list | tuple):
        values = [math.nan if value is None else value for value in values]
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{argument}: expected numbers, got {type(values).__name__}") from None


def numbers_of(argument: str, values: Any) -> np.ndarray:
    """Return at least one number, [N]."""
    array = array_of(argument, values)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{argument}: expected at least one value in a row, got shape {list(array.shape)}")
    return array


def number(value: float, digits: int = 2) -> str:
    """Format a number for a picture, with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "not finite"


def _take_names_literally(figure: Any) -> None:
    """Show titles literally, because names may contain dollar signs (mathtext) or control characters."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        content = text.get_text()
        if "$" in content and "\\mathdefault" not in content:  # the labels of logarithmic axes are mathtext
            text.set_parse_math(False)
        text.set_text(visible(content))
