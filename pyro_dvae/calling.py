"""What a user's own callable raises, named in one line."""

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
    """Name the ``argument`` whose call, in the body, ends in an error of Python, torch, Pyro or NumPy.

    :raises InputError: such an error was raised; it is the cause. Others, and those of the system (a full
        disk, exhausted memory), pass.
    """
    try:
        yield
    except Exception as error:
        named = named_error(argument, error)
        if named is error:
            raise
        raise named from error


def named_error(argument: str, error: Exception) -> Exception:
    """Return the error that names ``argument`` in place of ``error``, or ``error`` if it is to pass."""
    package = type(error).__module__.partition(".")[0]
    if package not in _PACKAGES or isinstance(error, OSError | Warning) or ran_out(error):
        return error
    first = first_line(error)
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return InputError(f"{argument}: {text[:400]}{_where(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error, and the second where the first only announces it."""
    lines = without_traces(str(error)).strip().splitlines()[:2]
    return " ".join(lines if lines and lines[0].endswith(":") else lines[:1]).rstrip(":")


def _where(error: Exception) -> str:
    """Return the line of the user's own code that the error comes from, if there is one."""
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parent))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*libraries, "<")) and frame.filename != sys.argv[0]:
            return f" (in {frame.name}, {Path(frame.filename).name} line {frame.lineno})"
    return ""
