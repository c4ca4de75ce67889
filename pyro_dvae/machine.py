"""The machine: cores worth using, memory, and out-of-memory errors."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A thread gets work for about a tenth of a millisecond in each of a step's twenty-odd parallel parts, or
# waiting for the others costs more than it brings. Measured on two cores only.
_OPERATIONS_PER_THREAD = 40e6
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PROCESSORS = Path("/proc/cpuinfo")

# M_TRIM_THRESHOLD, and M_MMAP_THRESHOLD at the largest that is allowed.
_KEPT = ((-1, 2**31 - 1), (-3, 2**25))


def available_cores() -> int:
    """Return the number of cores for this process, by its affinity and a container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def threads_for(operations: float) -> int:
    """Return the threads for steps of so many floating-point operations, at most torch's current number."""
    import torch  # late, so that the command line's help does not need it

    worth = math.ceil(operations / _OPERATIONS_PER_THREAD)
    return max(1, min(torch.get_num_threads(), available_cores(), worth))


@functools.cache
def is_intel() -> bool:
    """Return whether the processor is made by Intel."""
    try:
        described = _PROCESSORS.read_text()
    except OSError:
        described = platform.processor()
    return "GenuineIntel" in described


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads in the body, and restore their number afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quota() -> float:
    """Return the number of cores in a container's quota, or infinity."""
    try:
        limit, period = _QUOTA.read_text().split()
        return math.inf if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return math.inf


_MARKS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def machine_memory() -> int | None:
    """Return the bytes of this machine's memory, or None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for reuse; return whether this is possible.

    If memory is returned to the system, its next use costs a page fault: with large images a quarter of the
    time of a training step. Only the GNU C library has this setting.
    """
    tell = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "mallopt", None)
    return tell is not None and all(tell(*setting) == 1 for setting in _KEPT)


def ran_out(error: BaseException) -> bool:
    """Return whether ``error``, from Python, NumPy or torch on any device, means that memory is exhausted."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(mark in str(error) for mark in _MARKS)
