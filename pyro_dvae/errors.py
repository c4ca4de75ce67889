"""Errors and warnings, each one line with the cause and the remedy; and whose code a line is."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping
from typing import Any


def is_users(scope: Mapping[str, Any]) -> bool:
    """Whether code with these globals is a user's: not torch's, Pyro's, this package's or Python's."""
    name = scope.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] != "pyro_dvae" and not is_library(name)


def is_library(module: object) -> bool:
    """Whether a module belongs to torch, Pyro, NumPy or Python, or has no name.

    ``typing_extensions`` replaces parts of Python. ``lazy_loader`` looks up this package's names; before its
    version 0.6 it does so at each use.
    """
    if not isinstance(module, str):
        return True
    top = module.partition(".")[0]
    return top in ("torch", "pyro", "numpy", "lazy_loader", "typing_extensions") or (
        top in sys.stdlib_module_names and top != "__main__"
    )


def warn(message: str | Warning) -> None:
    """Issue a warning at the line of the user's code that led to it."""
    depth, frame = 1, inspect.currentframe()
    while frame is not None and not is_users(frame.f_globals):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, stacklevel=depth)


def shown(value: object) -> str:
    """Return ``value`` as error messages show it: on one line, shortened if necessary."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # foreign objects, or integers of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def without_traces(message: str) -> str:
    """Return a message without the table of sites that Pyro appends to errors of a program."""
    head, table, _ = message.partition("Trace Shapes:")
    return head.rstrip() if table else message


class InputError(ValueError):
    """An argument is invalid; the message names it, what was expected, and what was given."""

    def __init__(self, message: object = "") -> None:
        # One line without control characters.
        line = in_one_line(without_traces(str(message)))
        super().__init__("".join(each if each.isprintable() else repr(each)[1:-1] for each in line))


class NumberTypeError(InputError):
    """A tensor has an unsupported dtype."""


class DataError(InputError):
    """A data set, file or array that cannot be read, or that holds values the model cannot take."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, foreign, or from another configuration."""


class DivergenceError(ArithmeticError):
    """The loss became NaN or infinite; the last good checkpoint is untouched."""


class ProcessLostError(RuntimeError):
    """Another process of a distributed run ended; the last checkpoint is untouched."""


class CompiledStepError(RuntimeError):
    """A compiled step differs from its program, because something changed that cannot be detected."""


def in_one_line(text: str) -> str:
    """Return ``text`` without line breaks; other spaces stay, because a path may have several in a row."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))
