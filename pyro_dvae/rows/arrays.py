"""Rows of NumPy arrays (also on disk), sparse SciPy matrices and pandas frames."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.errors import DataError, InputError
from pyro_dvae.rows.source import InMemory, Rows, Source, gaps_are_allowed, require_finite
from pyro_dvae.text import counted

_WIDER = {np.dtype("uint16"): np.int32, np.dtype("uint32"): np.int64, np.dtype("uint64"): np.int64}


def tensor_of(argument: str, array: np.ndarray, floats: torch.dtype) -> Tensor:
    """Return an array as a tensor, without a copy if possible, with real numbers as ``floats``."""
    if isinstance(array, np.ma.MaskedArray) and gaps_are_allowed():
        array = np.ma.filled(array.astype(np.float64), np.nan)
    if np.ma.is_masked(array):
        raise InputError(f"{argument}: got a masked array; fill its gaps (.filled(value))")
    array = np.asarray(array)
    if array.dtype == np.uint64 and bool((array > np.iinfo(np.int64).max).any()):
        raise InputError(f"{argument}: expected whole numbers below 2**63, got {array.max()}; use floats")
    if array.dtype.kind not in "buif":
        raise InputError(
            f"{argument}: expected numbers, got an array of {array.dtype}; encode text as numbers, and "
            "convert objects that are numbers (.astype(float))"
        )
    native = array.astype(_WIDER.get(array.dtype, array.dtype.newbyteorder("=")), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    if not native.flags.writeable or not native.flags.c_contiguous or any(s < 0 for s in native.strides):
        native = np.array(native, order="C")
    tensor = torch.from_numpy(native)
    return tensor.to(floats) if tensor.is_floating_point() else tensor


def array_source(argument: str, array: np.ndarray, floats: torch.dtype) -> Source:
    """Return the rows of an array; a memory-mapped array stays on disk."""
    if array.ndim == 0 or not array.size:
        raise InputError(f"{argument}: expected at least one row [N, ...], got shape {array.shape}")
    if isinstance(array, np.memmap):
        return Mapped(argument, array, floats)
    return InMemory.checked(argument, tensor_of(argument, array, floats))


class Mapped(Source):
    """An array on disk (``numpy.load(file, mmap_mode="r")``); each batch reads its rows.

    It reads the file instead of the map, because a row of a map may load megabytes around it.
    """

    def __init__(self, argument: str, array: np.memmap, floats: torch.dtype) -> None:
        self._argument, self._array, self._floats = argument, array, floats
        tensor_of(argument, array[:1], floats)
        self._file = _file_of(array)
        if self._file is not None:
            weakref.finalize(self, os.close, self._file[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return Mapped, (self._argument, self._array, self._floats)

    def __len__(self) -> int:
        return len(self._array)

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Read some rows; refuse NaN and infinity among them."""
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        if self._file is None:
            found = np.array(self._array[numbers])
        else:
            shape = (len(numbers), *self._array.shape[1:])
            size = math.prod(shape) * self._array.itemsize
            # In torch's memory, whose alignment suits compiled steps.
            found = torch.empty(size, dtype=torch.uint8).numpy().view(self._array.dtype).reshape(shape)
            _read(*self._file, self._array.strides[0], numbers, found)
        return require_finite(self._argument, (tensor_of(self._argument, found, self._floats),))


def _file_of(array: np.memmap) -> tuple[int, int] | None:
    """Open the file of an array; return its descriptor and the position of row 0, or None if unreadable."""
    held: Any = array
    while held is not None and not isinstance(held, mmap.mmap):
        held = getattr(held, "base", None)
    whole_rows = array[0].flags.c_contiguous
    if held is None or not array.filename or array.mode == "c" or not whole_rows or not hasattr(os, "preadv"):
        return None
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # start of the map in the file
    position = begin + array.ctypes.data - np.frombuffer(held, np.uint8).ctypes.data
    try:
        descriptor = os.open(array.filename, os.O_RDONLY)
    except OSError:
        return None
    ends = [0, len(array) - 1]
    found = np.empty((2, *array.shape[1:]), array.dtype)
    try:
        _read(descriptor, position, array.strides[0], ends, found)
        same = found.tobytes() == array[ends].tobytes()
    except (OSError, DataError):
        same = False
    if not same:  # the file was replaced
        os.close(descriptor)
        return None
    return descriptor, position


def _read(descriptor: int, position: int, stride: int, rows: Iterable[int], into: np.ndarray) -> None:
    """Read rows of a file that are ``stride`` bytes apart."""
    for row, part in zip(rows, into.reshape(len(into), -1).view(np.uint8), strict=True):
        if os.preadv(descriptor, [part.data], position + row * stride) != part.nbytes:
            raise DataError(f"the file of a memory-mapped array ends before its row {row}; it was cut short")


class Sparse(Source):
    """A sparse SciPy matrix, made dense batch by batch; integers also become ``floats``.

    :raises InputError: its values are not finite real numbers.
    """

    def __init__(self, argument: str, matrix: Any, floats: torch.dtype) -> None:
        if matrix.ndim != 2 or not min(matrix.shape):
            raise InputError(f"{argument}: expected a sparse matrix [N, D], got shape {matrix.shape}")
        self._rows, self._floats = matrix.tocsr(), floats
        if self._rows.dtype.kind not in "buif" or not np.isfinite(self._rows.data).all():
            raise InputError(f"{argument}: expected finite numbers in the sparse matrix")

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows as a dense tensor."""
        found = self._rows[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return (torch.from_numpy(np.ascontiguousarray(found.toarray())).to(self._floats),)


def frame_source(argument: str, frame: Any, floats: torch.dtype) -> Source:
    """Return the rows of a pandas DataFrame, as ``floats``, or of a Series, which may stay integer.

    :raises InputError: a column is not numeric, or cells are missing although gaps are not allowed.
    """
    names = names_of(frame)
    columns = [frame.iloc[:, n] for n in range(len(names))] if frame.ndim == 2 else [frame]
    odd = [name for name, column in zip(names, columns, strict=True) if not _is_number(column)]
    if odd:
        shown = ", ".join(map(repr, odd[:5])) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
        raise InputError(
            f"{argument}: expected numeric columns, got others: {shown}; encode them "
            "(pandas.get_dummies(frame, dtype=float)), convert them if they are numbers (.astype(float)), or "
            "leave them out (frame.select_dtypes('number'))"
        )
    gaps = [int(column.isna().sum()) for column in columns]
    if any(gaps) and not gaps_are_allowed():
        name, first = next((name, count) for name, count in zip(names, gaps, strict=True) if count)
        total = counted(sum(gaps), "cell is", "cells are")
        raise InputError(
            f"{argument}: {total} missing, {first} of them in {name!r}; fill "
            "them or drop their rows (frame.dropna())"
        )
    whole = frame.ndim == 1 and frame.dtype.kind in "iub" and not any(gaps)
    missing = {"na_value": np.nan} if any(gaps) else {}
    kind = (np.uint64 if frame.dtype.kind == "u" else np.int64) if whole else np.float64
    found = array_source(argument, np.asarray(frame.to_numpy(dtype=kind, **missing)), floats)
    found.columns = names if frame.ndim == 2 else ()
    return found


def frame_of(value: Any) -> Any:
    """Return a table of pandas, polars, pyarrow or xarray as a DataFrame or Series; None for other values."""
    if "pandas" in packages_of(value) and hasattr(value, "to_numpy"):
        return value
    is_table = hasattr(value, "to_pandas") and not isinstance(value, type) and not is_array(value)
    return value.to_pandas() if is_table else None


def is_array(value: Any) -> bool:
    """Whether NumPy can read this as an array, for example of h5py, zarr, xarray, dask or jax."""
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("shape", "dtype", "__array__")
    )


def names_of(frame: Any) -> tuple[str, ...]:
    """Return the names of the columns of a DataFrame; of a Series, one empty name."""
    return tuple(map(str, frame.columns)) if frame.ndim == 2 else ("",)


def columns_of(value: Any) -> tuple[str, ...]:
    """Return the names of the columns of a table; () of rows without names."""
    frame = frame_of(value)
    return () if frame is None or frame.ndim != 2 else names_of(frame)


def same_columns(argument: str, expected: Sequence[str], found: Sequence[str]) -> None:
    """Refuse a table whose columns differ from those of training, also in order; () means unknown."""
    if not expected or not found or list(found) == list(expected):
        return
    number, name = next(
        (n, name) for n, name in enumerate((*found, None)) if n >= len(expected) or name != expected[n]
    )
    wanted = repr(expected[number]) if number < len(expected) else "no further column"
    got = "no further column" if number >= len(found) else repr(name)
    raise InputError(
        f"{argument}: expected the columns of training in their order, got {got} in place of {wanted} at "
        f"position {number}; choose them by name (frame[columns])"
    )


def packages_of(value: Any) -> set[str]:
    """Return the packages of the type of a value and of its bases."""
    return {base.__module__.partition(".")[0] for base in type(value).__mro__}


def _is_number(column: Any) -> bool:
    return getattr(column.dtype, "kind", "O") in "buif"
