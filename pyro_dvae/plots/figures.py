"""A figure without matplotlib's global state, and its way into a file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.files import user_path, write_atomically
from pyro_dvae.text import visible

DPI = 100
FONT_SIZE = 9


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

    target = user_path("path", path)
    if target.suffix.lower() != ".png":
        raise InputError(f"path: expected a file name ending in .png, got {str(path)!r}")
    _take_names_literally(figure)
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    write_atomically(target, drawn.getvalue())
    return target


def _take_names_literally(figure: Any) -> None:
    """Show titles as they are: a name may hold the dollar signs of mathtext, or control characters."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        shown = text.get_text()
        if "$" in shown and "\\mathdefault" not in shown:  # the labels of logarithmic axes are mathtext
            text.set_parse_math(False)
        text.set_text(visible(shown))
