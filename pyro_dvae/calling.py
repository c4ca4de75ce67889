"""One-line errors for exceptions of a user's own callables."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_dvae.errors import InputError, without_traces
from pyro_dvae.machine import ran_out

_PACKAGES = ("builtins", "torch", "pyro", "numpy")


@contextmanager
def calling(argument: str) -> Iterator[None]:
    """Turn an exception of Python, torch, Pyro or NumPy in the body into an error that names ``argument``.

    :raises InputError: such an exception was raised; it is the cause. Other exceptions, and those of the
        system (a full disk, exhausted memory), pass.
    """
    try:
        yield
    except Exception as error:
        named = named_error(argument, error)
        if named is error:
            raise
        raise named from error


def named_error(argument: str, error: Exception) -> Exception:
    """Return the error that names ``argument``, or ``error`` itself if it should pass."""
    package = type(error).__module__.partition(".")[0]
    if package not in _PACKAGES or isinstance(error, OSError | Warning) or ran_out(error):
        return error
    first = first_line(error)
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return InputError(f"{argument}: {text[:400]}{_where(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error, and the second if the first only announces it."""
    lines = without_traces(str(error)).strip().splitlines()[:2]
    return " ".join(lines if lines and lines[0].endswith(":") else lines[:1]).rstrip(":")


def _where(error: Exception) -> str:
    """Return the line of the user's own code that raised the error, if there is one."""
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parent))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*libraries, "<")) and frame.filename != sys.argv[0]:
            return f" (in {frame.name}, {Path(frame.filename).name} line {frame.lineno})"
    return ""
