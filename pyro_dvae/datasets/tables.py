"""A user's own table (.csv, .tsv, .parquet), read by pandas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_dvae.datasets.arrays import reading
from pyro_dvae.datasets.base import needs
from pyro_dvae.datasets.from_tables import texts_of
from pyro_dvae.datasets.registry import register_file
from pyro_dvae.datasets.treatment import Content, Treatment

_COLUMNS_AT_MOST = 20_000
_GAPS = ("", "NA", "NaN", "nan", "null", "?")


@register_file(".csv")
def csv_content(path: Path, treatment: Treatment) -> Content:
    """Read comma-separated rows, after at most one line of names."""
    return _content(path, lambda pandas: _read(pandas, path, ","))


@register_file(".tsv")
def tsv_content(path: Path, treatment: Treatment) -> Content:
    """Read rows separated by tabulators, after at most one line of names."""
    return _content(path, lambda pandas: _read(pandas, path, "\t"))


@register_file(".parquet")
def parquet_content(path: Path, treatment: Treatment) -> Content:
    """Read a Parquet file; needs pyarrow."""
    needs("pyarrow", "pyarrow", path.name)
    return _content(path, lambda pandas: pandas.read_parquet(path))


def _content(path: Path, read: Callable[[Any], Any]) -> Content:
    pandas = needs("pandas", "pandas", path.name)
    with reading(path):
        frame = read(pandas)
        if not len(frame.columns) or not len(frame):
            raise ValueError("it holds no rows")
        if doubled := [str(name) for name in frame.columns[frame.columns.duplicated()]]:
            raise ValueError(f"two columns are named {doubled[0]!r}")
        return Content(path, table=texts_of(frame))


def _read(pandas: Any, path: Path, separator: str) -> Any:
    """Read a text file; without a line of names the columns are numbers from 0."""
    options = {
        "sep": separator,
        "header": None,
        "encoding": "utf-8-sig",
        "skipinitialspace": True,
        "keep_default_na": False,
        "na_values": list(_GAPS),
    }
    with open(path, encoding="utf-8-sig") as file:
        width = next((line.count(separator) + 1 for line in file if line.strip()), 0)
    if width > _COLUMNS_AT_MOST:
        raise ValueError(f"it has {width:,} columns; save so wide a table as an array (.npy)")
    first = pandas.read_csv(path, nrows=1, dtype=str, **options).iloc[0].tolist()
    named = not any(_is_number(cell) for cell in first)
    frame = pandas.read_csv(path, skiprows=_lines_before(path) if named else None, **options)
    if named:
        if len(first) != frame.shape[1]:
            raise ValueError(f"{len(first)} names for {frame.shape[1]} columns")
        frame.columns = [str(name) for name in first]
    else:
        frame.columns = [str(number) for number in range(frame.shape[1])]
    return frame


def _lines_before(path: Path) -> int:
    """Return how many lines there are up to the names, blank ones included."""
    with open(path, encoding="utf-8-sig") as file:
        return 1 + next(number for number, line in enumerate(file) if line.strip())


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
