"""A figure without matplotlib's global state, and its way into a file."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path
from typing import Any

from pyro_dvae.errors import InputError

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
