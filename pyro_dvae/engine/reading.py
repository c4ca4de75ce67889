"""Reads, compares and restores one place that a program may read."""

from __future__ import annotations

import operator
import pickle
import random
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from pyro_dvae.engine.following import Unrecordable
from pyro_dvae.errors import is_library

GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
MISSING = object()
_BYTES_AT_MOST = 1_000_000  # of one array, because all are compared before every step

Read = Callable[[], Iterable[Any]]
Write = Callable[[int, Any], None]  # restores the value at a position of what was read


def entries(scope: Any, names: list[str]) -> Read:
    """Return a reader of entries of a dictionary of names, at least two."""

    return partial(operator.itemgetter(*names), scope)


def set_name(scope: Any, owner: type | None, name: str, value: Any) -> None:
    """Restore a global or an attribute; an attribute of a class is set on the class."""

    if owner is not None:
        setattr(owner, name, value)
    else:
        scope[name] = value


def set_cell(cell: types.CellType, number: int, value: Any) -> None:
    """Restore a variable of a closure."""

    if value is not MISSING:
        cell.cell_contents = value


def set_slot(holder: Any, descriptor: Any, number: int, value: Any) -> None:
    """Restore an attribute in a slot."""

    if value is not MISSING:
        descriptor.__set__(holder, value)


def set_entry(holder: Any, number: int, value: Any) -> None:
    """Restore the length (the first value of a reader), an entry of a list, or a value of a dictionary."""
    if number == 0 and isinstance(holder, list):
        del holder[value:]
    elif number == 0 and isinstance(holder, dict):
        for key in list(holder)[value:]:
            del holder[key]
    elif isinstance(holder, (list, deque)):
        holder[number - 1] = value
    elif isinstance(holder, dict) and number > len(holder):
        holder[list(holder)[number - 1 - len(holder)]] = value


def leave(number: int, value: Any) -> None:
    """Keep a new attribute, because it may be a cache."""


def cell_reader(cell: types.CellType) -> Read:
    """Return a reader of a variable of a closure."""

    def read() -> Iterable[Any]:
        try:
            return (cell.cell_contents,)
        except ValueError:  # empty
            return (MISSING,)

    return read


def slot_reader(holder: Any, descriptor: Any) -> Read:
    """Return a reader of an attribute in a slot."""

    def read() -> Iterable[Any]:
        try:
            return (descriptor.__get__(holder),)
        except AttributeError:
            return (MISSING,)

    return read


def generator_state(holder: Any) -> Any:
    """Return the state of a random generator; None for anything else."""

    if isinstance(holder, random.Random):
        return holder.getstate()
    if isinstance(holder, torch.Generator):
        return holder.get_state()
    if isinstance(holder, np.random.Generator):
        return holder.bit_generator.state
    return holder.get_state() if isinstance(holder, np.random.RandomState) else None


def set_generator_state(holder: Any, state: Any) -> None:
    """Restore what :func:`generator_state` returned."""

    if isinstance(holder, random.Random):
        holder.setstate(state)
    elif isinstance(holder, np.random.Generator):
        holder.bit_generator.state = state
    elif isinstance(holder, (torch.Generator, np.random.RandomState)):
        holder.set_state(state)


def fingerprint(holder: Any) -> Callable[[], Any] | None:
    """Return a function that fingerprints an object without accessible parts, or None."""
    if isinstance(holder, np.ndarray):
        if holder.nbytes > _BYTES_AT_MOST:
            raise Unrecordable(
                f"the program can read a NumPy array of {holder.nbytes / 1e6:.0f} MB, too much to compare "
                "before every step: hold it in a tensor"
            )
        # A masked array is read in parts, because filling it sets an attribute, which np.ma.masked refuses.
        data, mask = np.ma.getdata, np.ma.getmask
        return lambda: (holder.shape, holder.dtype, *(hash(of(holder).tobytes()) for of in (data, mask)))
    if isinstance(holder, (set, frozenset)):
        return lambda: frozenset(holder)
    if isinstance(holder, bytearray):
        return lambda: bytes(holder)
    if isinstance(holder, torch.Generator):
        return lambda: hash(holder.get_state().numpy().tobytes())
    module = type(holder).__module__
    if is_library(module) and module not in ("itertools", "array") and not isinstance(holder, GENERATORS):
        return None

    def take() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return hash(pickle.dumps(holder))

    try:
        take()
    except Exception:  # a lock, a file, a generator: its state is not accessible
        return None
    return take
