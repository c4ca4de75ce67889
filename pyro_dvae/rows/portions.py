"""Rows in parts that are worked on apart: which part is meant, and which rows are in it."""

from __future__ import annotations

from typing import Any

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown


def portion(argument: str, value: Any) -> tuple[int, int]:
    """Return ``value`` if it is (k, n), the k-th of n parts with k from 0, or refuse it; (0, 1) for None."""
    if value is None:
        return 0, 1
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(f"{argument}: expected (k, n), part k of n with k from 0, got {shown(value)}")
    parts = checks.count(argument, value[1])
    return checks.count(argument, value[0], 0, parts - 1), parts


def share(rows: int, number: int, parts: int) -> slice:
    """Return a part of ``rows`` in order; parts differ by one at most, and may be empty."""
    least, more = divmod(rows, parts)
    start = number * least + min(number, more)
    return slice(start, start + least + (number < more))
