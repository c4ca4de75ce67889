"""A user's own array file (.npy, .npz, .csv) as a data set with three parts in [0, 1]."""

from __future__ import annotations

import csv
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset, image_shape_of, is_binary, permuted_split
from pyro_dvae.datasets.registry import Request, register_file
from pyro_dvae.errors import DataError
from pyro_dvae.files import irregular
from pyro_dvae.machine import machine_memory

Arrays = dict[str, np.ndarray]


@register_file(".npy")
def load_npy(path: Path, request: Request) -> Dataset:
    """Load one array [N, D] or [N, H, W], split 80 / 10 / 10."""
    return _dataset(path, {"all": read_npy(path)}, {}, request)


@register_file(".npz")
def load_npz(path: Path, request: Request) -> Dataset:
    """Load named parts ``train``, ``validation``, ``test`` (and ``*_labels``), or one array to be split."""
    return _dataset(path, *read_npz(path), request)


@register_file(".csv")
def load_csv(path: Path, request: Request) -> Dataset:
    """Load comma-separated numbers, one row a line, after at most one line of names; split 80 / 10 / 10."""
    return _dataset(path, {"all": read_csv(path)}, {}, request)


def _dataset(path: Path, arrays: Arrays, labels: Arrays, request: Request) -> Dataset:
    for part, array in arrays.items():
        _check_array(_where(path, part), array)
    shapes = {array.shape[1:] for array in arrays.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{part} {list(array.shape)}" for part, array in arrays.items())
        raise DataError(f"{path}: expected parts with rows of one shape, got {found}")
    shape = shapes.pop()
    data, scaling = _to_unit(path, arrays)
    classes = {part: _to_labels(_where(path, f"{part} labels"), array) for part, array in labels.items()}
    how = "split as in the file"
    if "all" in data:
        data, classes = _split(path, data["all"], classes.get("all"), request.split_seed)
        how = f"by a permutation with seed {request.split_seed}"
    sizes = ", ".join(f"{len(data[part])} {part}" for part in SPLIT_PARTS)
    return Dataset(
        name=path.name,
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        train_labels=classes.get("train"),
        validation_labels=classes.get("validation"),
        test_labels=classes.get("test"),
        image_shape=(shape[0], shape[1]) if len(shape) == 2 else image_shape_of(shape[0]),
        binary=is_binary(*data.values()),
        source=f"array file {path}; {sizes}, {how}; {scaling}",
    )


def _check_array(where: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers, got the dtype {array.dtype}")
    if array.ndim not in (2, 3):
        raise DataError(f"{where}: expected an array [N, D] or [N, H, W], got the shape {list(array.shape)}")
    if array.size == 0:
        raise DataError(f"{where}: expected at least one value, got the shape {list(array.shape)}")
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        row, *rest = np.unravel_index(int(bad.argmax()), array.shape)
        column = ", ".join(str(int(index)) for index in rest)
        raise DataError(
            f"{where}: expected finite values, got {int(bad.sum())} NaN or infinite of {array.size}, "
            f"the first in row {int(row)}, column {column} (counted from 0)"
        )


def _to_unit(path: Path, arrays: Arrays) -> tuple[dict[str, Tensor], str]:
    """Bytes are divided by 255, in all parts or in none: the largest value of every part decides together."""
    top = max((int(array.max()) for array in arrays.values() if array.dtype.kind in "iu"), default=0)
    divisor = 255 if 1 < top <= 255 else 1
    tensors = {}
    for part, array in arrays.items():
        limit = divisor if array.dtype.kind in "iu" else 1
        low, high = array.min(), array.max()
        if low < 0 or high > limit:
            raise DataError(
                f"{_where(path, part)}: expected values in [0, 1] (or whole numbers up to 255), "
                f"got the range [{low:g}, {high:g}]; rescale them"
            )
        flat = np.asarray(array.reshape(len(array), -1), dtype=np.float32)
        tensors[part] = torch.from_numpy(flat / np.float32(limit))
    return tensors, "whole numbers divided by 255" if divisor > 1 else "values as they are"


def _to_labels(where: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{where}: expected whole numbers [N], got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype(np.int64))


def _split(
    path: Path, data: Tensor, labels: Tensor | None, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rows = len(data)
    if rows < 3:
        raise DataError(f"{path}: expected at least 3 rows to split into three parts, got {rows}")
    if labels is not None and len(labels) != rows:
        raise DataError(f"{path}: expected {rows} labels, one for each row, got {len(labels)}")
    held_out = max(1, rows // 10)
    cut = permuted_split(rows, (rows - 2 * held_out, held_out, held_out), seed)
    chosen = dict(zip(SPLIT_PARTS, cut, strict=True))
    classes = {} if labels is None else {part: labels[rows] for part, rows in chosen.items()}
    return {part: data[rows] for part, rows in chosen.items()}, classes


def _where(path: Path, part: str) -> str:
    return str(path) if part == "all" else f"{path}, {part.removeprefix('all ')}"


_NO_NUMBERS = "not an array of numbers: damaged, of another kind, or holding Python objects"
SPLIT_PARTS = ("train", "validation", "test")
_SPELLINGS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def read_npy(path: Path) -> np.ndarray:
    """Read one array; never unpickles."""
    with _reading(path), open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise ValueError("it holds an archive of arrays; name it .npz")
        file.seek(0)
        return _array(file, os.fstat(file.fileno()).st_size)


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read the arrays and their labels by part: train, validation and test, or ``all`` for a single array."""
    with _reading(path), open(path, "rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise ValueError("it holds one bare array; name it .npy")
        with zipfile.ZipFile(file) as archive:
            content = {}
            for entry in archive.infolist():
                with archive.open(entry) as packed:
                    content[entry.filename.removesuffix(".npy")] = _array(packed, entry.file_size)
    if "train" in content:
        return _by_part(path, content)
    singles = [key for key in content if key != "labels"]
    if len(singles) != 1:
        raise DataError(
            f"{path}: expected the arrays train, validation and test, or a single one (with labels or "
            f"without), got {', '.join(content) or 'none'}"
        )
    return {"all": content[singles[0]]}, {"all": content["labels"]} if "labels" in content else {}


def read_csv(path: Path) -> np.ndarray:
    """Read comma-separated numbers, skipping one line of names; whole numbers come back as integers."""
    with _reading(path):
        skipped = _names_first(path)
        if skipped is None:
            raise ValueError("it holds no numbers")
        try:
            table = np.loadtxt(
                path, delimiter=",", skiprows=skipped, ndmin=2, comments=None, encoding="utf-8-sig"
            )
        except ValueError as error:
            raise ValueError(_first_fault(path, skipped) or str(error)) from None
        return table.astype(np.int64) if _all_integers(path, table, skipped) else table


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array after comparing what its header promises with the ``size`` of the file, in bytes.

    Nothing is unpacked or allocated for a header that lies, nor for more than this machine's memory.
    """
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise ValueError(_NO_NUMBERS) from None
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    promised = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(_NO_NUMBERS)
    if promised != size - file.tell() or min(shape, default=0) < 0:
        raise ValueError(f"its header promises {promised} bytes, it holds {size - file.tell()}")
    if promised > (machine_memory() or math.inf):
        raise ValueError(f"it takes {promised} bytes, more than this machine's memory")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file")
    if kind := irregular(path):
        raise DataError(f"{path}: expected a file, got {kind}")
    try:
        yield
    except DataError:
        raise
    except (csv.Error, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged file ({_cause(error)})") from None
    except Exception as error:  # NumPy raises whatever the damaged bytes lead it to
        raise DataError(f"{path}: cannot be read as {path.suffix.lower()} ({_cause(error)})") from None


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _by_part(
    path: Path, content: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    arrays, labels = {}, {}
    for part, spellings in _SPELLINGS.items():
        found = [key for key in spellings if key in content]
        if len(found) != 1:
            raise DataError(
                f"{path}: expected one array named {' or '.join(spellings)} beside train, "
                f"got {', '.join(content)}"
            )
        arrays[part] = content[found[0]]
        if f"{found[0]}_labels" in content:
            labels[part] = content[f"{found[0]}_labels"]
    return arrays, labels


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for row in reader:
            if row:
                yield reader.line_num, row


def _names_first(path: Path) -> int | None:
    """How many lines come before the numbers, or None if nothing does; one bad cell is not a header."""
    rows = _rows(path)
    line, first = next(rows, (0, None))
    if first is None:
        return None
    if any(map(_is_number, first)):
        return line - 1
    return None if next(rows, None) is None else line


def _all_integers(path: Path, table: np.ndarray, skipped: int) -> bool:
    """Whether the file writes integers: 0.0 and 2.0 are real numbers, that only happen to be whole."""
    if not np.isfinite(table).all() or (table != np.round(table)).any() or np.abs(table).max() >= 2**53:
        return False
    rows = (row for line, row in _rows(path) if line > skipped)
    return not any("." in cell or "e" in cell.lower() for row in rows for cell in row)


def _first_fault(path: Path, skipped: int) -> str | None:
    width = 0
    for line, row in _rows(path):
        if line <= skipped:
            continue
        width = width or len(row)
        if len(row) != width:
            return f"line {line} has {len(row)} values where {width} were expected"
        for column, cell in enumerate(row, start=1):
            if not _is_number(cell):
                return f"line {line}, column {column}: expected a number, got {cell!r}"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
