"""How much memory there is, and what running out of it looks like."""

from __future__ import annotations

import os

_MARKS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def machine_memory() -> int | None:
    """Return the bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def ran_out(error: BaseException) -> bool:
    """Return whether ``error``, of Python, NumPy or torch on any device, says that memory is used up."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(mark in str(error) for mark in _MARKS)
