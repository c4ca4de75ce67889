"""Writes rows as a table (.csv, .parquet) with names of columns, or as an array of numbers (.npy)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pyro_dvae.datasets.array_scale import Units
from pyro_dvae.datasets.base import needs
from pyro_dvae.datasets.columns import Columns
from pyro_dvae.datasets.from_arrays import as_in_file
from pyro_dvae.errors import InputError
from pyro_dvae.files import replacing, require_writable, user_path

Table = Mapping[str, np.ndarray]
_EXACT = 2.0**53  # all smaller whole numbers are exact


def _csv(path: Path, table: Table) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*map(_cells, table.values()), strict=True))


def _cells(values: np.ndarray) -> list[object]:
    """Return the values of a column; whole numbers without ``.0``, as most files have them."""
    cells: list[object] = values.tolist()
    if values.dtype.kind != "f":
        return cells
    whole = (np.abs(values) < _EXACT) & (values == np.floor(values))
    return [int(value) if each else value for value, each in zip(cells, whole.tolist(), strict=True)]  # type: ignore[call-overload]


def _parquet(path: Path, table: Table) -> None:
    from pyarrow import parquet
    from pyarrow import table as of_columns

    parquet.write_table(of_columns({name: np.ascontiguousarray(each) for name, each in table.items()}), path)


_WRITERS: dict[str, Callable[[Path, Table], None]] = {".csv": _csv, ".parquet": _parquet}
SUFFIXES = (*_WRITERS, ".npy")


def require_table(path: Path, read: str | Path | None, others: tuple[str, ...] = ()) -> None:
    """Refuse a file that :func:`write_table` cannot write, or from which the rows are read.

    :param read: the file from which the rows are read.
    :param others: further suffixes that the caller can write.
    """
    known = (*others, *SUFFIXES)
    if path.suffix not in known:
        raise InputError(
            f"output: expected a file ending in {', '.join(known[:-1])} or {known[-1]}, got {path}"
        )
    if path.suffix == ".parquet":
        needs("pyarrow.parquet", "pyarrow", path.name)
    if read is not None and path.resolve() == user_path("file", read).resolve():
        raise InputError(f"output: {path} is the file that is read; name another one")
    require_writable(path)


def require_numbers(path: Path, units: Units, cells: Table | None = None) -> None:
    """Refuse an array (.npy) for a run with columns of texts.

    :param cells: the cells of a file by column, whose numbers may name categories.
    """
    columns = units.columns if path.suffix == ".npy" and isinstance(units, Columns) else ()
    for each in columns:
        if each.levels and (cells is None or cells[each.name].dtype.kind not in "biuf"):
            raise _no_numbers(path, each.name)


def _no_numbers(path: Path, column: str) -> InputError:
    return InputError(
        f"output: {path} can hold only numbers, but column {column!r} holds text; choose a .csv or "
        ".parquet file"
    )


def write_table(path: Path, names: Table, table: Table, shape: tuple[int, ...] | None = None) -> Path:
    """Write columns [N] by name; an array has only the numbers, without names of rows.

    :param names: columns that name the rows.
    :param shape: the shape of a row in an array, with channels first or last; by default flat.
    :raises InputError: an array cannot contain a column of texts.
    """
    if path.suffix == ".npy":
        texts = [name for name, values in table.items() if values.dtype.kind not in "buif"]
        if texts:
            raise _no_numbers(path, texts[0])
        array = np.stack(list(table.values()), 1)
        with replacing(path) as partial, open(partial, "wb") as file:
            np.save(file, array if shape is None else as_in_file(array, shape), allow_pickle=False)
        return path
    with replacing(path) as partial:
        _WRITERS[path.suffix](partial, {**names, **table})
    return path
