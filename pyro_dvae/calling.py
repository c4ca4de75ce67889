"""One-line errors for exceptions of a user's own callables."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

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
    return InputError(f"{argument}: {text[:400]}{_hint(error)}{_where(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error, and the second if the first only announces it."""
    lines = without_traces(str(error)).strip().splitlines()[:2]
    return " ".join(lines if lines and lines[0].endswith(":") else lines[:1]).rstrip(":")


def _hint(error: Exception) -> str:
    """Return a remedy for a common error: a misspelt option, data of another type than the modules."""
    if isinstance(error, RuntimeError) and "same dtype" in str(error):
        return "; give data and modules one type (.float() or .double())"
    name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if name is None:
        return ""
    options: list[str] = []
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        code, position = frame.f_code, frame.f_code.co_argcount
        if code.co_flags & inspect.CO_VARKEYWORDS and code.co_filename.startswith(str(Path(__file__).parent)):
            options += code.co_varnames[position : position + code.co_kwonlyargcount]
        frame = frame.f_back
    near = difflib.get_close_matches(name[1], options, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _where(error: Exception) -> str:
    """Return the line of the user's own code that raised the error, if there is one."""
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parent))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*libraries, "<")) and frame.filename != sys.argv[0]:
            return f" (in {frame.name}, {Path(frame.filename).name} line {frame.lineno})"
    return ""
