"""Reading .npy, .npz and .csv files; whatever is wrong with one is a :class:`DataError` of one line."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pyro_dvae.errors import DataError

SPLIT_PARTS = ("train", "validation", "test")
_SPELLINGS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def read_npy(path: Path) -> np.ndarray:
    """Read one array; never unpickles."""
    with _reading(path), open(path, "rb") as file:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds an archive of arrays; name it .npz")
        return array


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read the arrays and their labels by part: train, validation and test, or ``all`` for a single array."""
    with _reading(path), open(path, "rb") as file:  # opened here: NumPy leaves a damaged archive open
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it holds one bare array; name it .npy")
        content = {key: archive[key] for key in archive.files}
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


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file")
    if os.path.isdir(path):
        raise DataError(f"{path}: expected a file, got a folder")
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix.lower()} ({_cause(error)})") from None
    except (csv.Error, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged file ({_cause(error)})") from None


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in text:  # NumPy's advice would be unsafe, and mostly the file is no array at all
        return "not an array of numbers: damaged, of another kind, or holding Python objects"
    return text


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
