"""Reading .npy, .npz and .csv files; whatever is wrong with one is a :class:`DataError` of one line."""

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

from pyro_dvae.errors import DataError
from pyro_dvae.files import irregular
from pyro_dvae.memory import machine_memory

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
