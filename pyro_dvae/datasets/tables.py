"""A user's own table (.csv, .tsv, .parquet), read by pandas."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from pyro_dvae.datasets.arrays import reading
from pyro_dvae.datasets.base import needs
from pyro_dvae.datasets.columns import level_of
from pyro_dvae.datasets.from_tables import texts_of
from pyro_dvae.datasets.registry import register_file
from pyro_dvae.datasets.treatment import Content, Treatment
from pyro_dvae.text import counted

_COLUMNS_AT_MOST = 20_000
_GAPS = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "?")


@register_file(".csv")
def csv_content(path: Path, treatment: Treatment) -> Content:
    """Read comma-separated rows, after at most one line of names."""
    return _content(path, lambda pandas: _read(pandas, path, ",", treatment))


@register_file(".tsv")
def tsv_content(path: Path, treatment: Treatment) -> Content:
    """Read rows separated by tabulators, after at most one line of names."""
    return _content(path, lambda pandas: _read(pandas, path, "\t", treatment))


@register_file(".parquet")
def parquet_content(path: Path, treatment: Treatment) -> Content:
    """Read a Parquet file; needs pyarrow."""
    needs("pyarrow", "pyarrow", path.name)
    return _content(path, lambda pandas: _with_names_of_rows(pandas.read_parquet(path)))


def _with_names_of_rows(frame: Any) -> Any:
    """Return a table with the index as columns if it has names, as pandas writes it to a text file."""
    named = [number for number, name in enumerate(frame.index.names) if name is not None]
    return frame.reset_index(level=named) if named else frame


def _content(path: Path, read: Callable[[Any], Any]) -> Content:
    pandas = needs("pandas", "pandas", path.name)
    with reading(path):
        frame = read(pandas)
        if not len(frame.columns) or not len(frame):
            raise ValueError("it holds no rows")
        if doubled := [str(name) for name in frame.columns[frame.columns.duplicated()]]:
            raise ValueError(f"two columns are named {doubled[0]!r}")
        table = texts_of(frame)
        unnamed = list(table) == _numbers(len(table))
        return Content(path, table=table, notes=("no names of columns, so their numbers",) if unnamed else ())


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def _read(pandas: Any, path: Path, separator: str, treatment: Treatment) -> Any:
    """Read a text file; without a line of names the columns are numbers from 0."""
    options: dict[str, Any] = {
        "sep": separator,
        "header": None,
        "encoding": "utf-8-sig",
        "skipinitialspace": True,
        "keep_default_na": False,
        "na_values": list(_GAPS),
        "low_memory": False,  # otherwise each half million rows may have their own type: 7 beside "007"
    }
    if pandas.__version__.startswith("2."):
        options["float_precision"] = "round_trip"  # to the last digit, the default of pandas 3
    lines = _first_lines(path)
    _require_separator(lines[0][1], lines[-1][1], separator)
    width = lines[0][1].count(separator) + 1
    if width > _COLUMNS_AT_MOST:
        raise ValueError(f"it has {width:,} columns; save a table of this width as an array (.npy)")
    if width == 1:
        _require_no_blank_lines(path)
    first, *others = pandas.read_csv(path, nrows=2, dtype=str, **options).to_numpy().tolist()
    named = _are_names(first, others[0] if others else [])
    if named and len(lines) == 1:
        raise ValueError("it holds a line of names, and no rows")
    options["skiprows"] = lines[0][0] + 1 if named else None
    frame = pandas.read_csv(path, **options)
    if named:
        if len(first) != frame.shape[1]:
            raise ValueError(f"its first line has {counted(len(first), 'cell')}, the next {frame.shape[1]}")
        if unnamed := [number for number, name in enumerate(first) if not isinstance(name, str)]:
            raise ValueError(
                f"column {unnamed[0]} (counted from 0) has no name; give it one, or remove it (of a "
                "pandas index: to_csv(index=False))"
            )
        frame.columns = [str(name) for name in first]
    else:
        frame.columns = _numbers(frame.shape[1])
    of_names = _of_names(treatment)
    for number, name in enumerate(frame.columns):
        if name in of_names and frame.dtypes.iloc[number].kind not in of_names[name]:
            texts = pandas.read_csv(path, usecols=[number], dtype=str, **options)[number]
            if (_without_decimals(texts) != frame.iloc[:, number].map(level_of))[texts.notna()].any():
                frame.isetitem(number, texts)
    return frame


def _of_names(treatment: Treatment) -> dict[str | None, str]:
    """Return the columns whose cells are names, written as they are (00501, 1.50, TRUE), and other dtypes.

    Labels that are not whole numbers are left to be refused.
    """
    categorical = [name for name, kind in (treatment.kinds or {}).items() if kind == "categorical"]
    return {treatment.label_column: "f", **dict.fromkeys([*categorical, treatment.id_column], "")}


def _without_decimals(texts: Any) -> Any:
    """Return 2 for 2.0, which pandas writes for whole numbers beside a gap."""
    return texts.str.replace(r"\.0+$", "", regex=True)


def _are_names(first: list[Any], second: list[Any]) -> bool:
    """Whether the first line has names: texts, pandas' 0, 1, 2, ..., or consecutive years above others."""
    numbers = [number for number, cell in enumerate(first) if _is_number(cell)]
    # pandas writes 0, 1, 2, ... as the names of columns without names. A row of two may be data.
    if not numbers or (len(first) > 2 and first == _numbers(len(first))):
        return True
    return _are_years([first[n] for n in numbers]) and not _are_years([second[n] for n in numbers if second])


def _are_years(cells: list[Any]) -> bool:
    """Whether cells are consecutive years."""
    if not cells or not all(isinstance(cell, str) and re.fullmatch(r"(19|20)\d\d", cell) for cell in cells):
        return False
    years = [int(cell) for cell in cells]
    return years == list(range(years[0], years[0] + len(years)))


def _first_lines(path: Path) -> list[tuple[int, str]]:
    """Return up to two lines that are not blank, with their numbers from 0."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = list(islice(((n, line) for n, line in enumerate(file) if line.strip()), 2))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text; save it in UTF-8") from None
    if not found:
        raise ValueError("it is empty")
    return found


def _require_no_blank_lines(path: Path) -> None:
    """Refuse blank lines between the rows of a single column: pandas would leave out these rows."""
    begun, blank = False, 0
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                blank = number if begun else 0
            elif blank:
                raise ValueError(f"line {blank} is blank; write NA for a missing cell, or remove the line")
            else:
                begun = True


def _require_separator(first: str, second: str, separator: str) -> None:
    """Refuse lines with another separator: without the expected one, or with it only as a decimal comma."""
    other = next((each for each in ",;\t|" if each in first and each != separator), None)
    if other is not None and (separator not in first or (separator == "," and _decimals(second, other))):
        kinds = {",": ".csv", "\t": ".tsv"}
        remedy = f"name it {kinds[other]}" if other in kinds else "save it so, with points in decimals"
        raise ValueError(f"its first line is separated by {other!r}, expected {separator!r}; {remedy}")


def _decimals(line: str, separator: str) -> bool:
    """Whether a line has only numbers, some perhaps with a decimal comma."""
    return all(_is_number(cell.strip().strip('"').replace(",", ".")) for cell in line.split(separator))


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return isinstance(cell, str)
