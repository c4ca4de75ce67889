"""Makes a data set from columns of numbers and texts, or from arrays."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.columns import Column, Columns, level_of
from pyro_dvae.datasets.from_arrays import check_array, of_arrays
from pyro_dvae.datasets.treatment import (
    Arrays,
    Content,
    Treatment,
    dataset_of,
    kind_of,
    numbers,
    scale_of,
    split,
    to_labels,
    where,
)
from pyro_dvae.errors import DataError
from pyro_dvae.text import counted

_LEVELS_AT_MOST = 100
# Dates are texts, as in a .csv file.
_CELLS = (str, bool, int, float, np.bool_, np.number, date, time, type(None))
_SIGNS = str.maketrans("", "", "%$€£ _'\u00a0\u202f")


def treated(content: Content, treatment: Treatment, split_seed: int) -> Dataset:
    """Return the data set of a file.

    :raises DataError: cells are missing, columns do not exist or cannot be used, or whole numbers may be
        pixels, counts or classes and the user did not say which.
    """
    treatment = treatment.checked()
    named = (treatment.columns, treatment.drop, treatment.label_column, treatment.id_column, treatment.kinds)
    wants_columns = any(named)
    flat = len(content.parts) == 1 and next(iter(content.parts.values())).ndim == 2
    if content.table is not None or (wants_columns and flat):
        return _of_table(content, treatment, split_seed)
    if wants_columns:
        raise DataError(
            f"{content.path}: columns are chosen from a table [N, D] of all rows, not from images or parts"
        )
    return of_arrays(content, treatment, split_seed)


def _of_table(content: Content, treatment: Treatment, split_seed: int) -> Dataset:
    path, table = content.path, content.table
    if table is None:
        ((_, array),) = content.parts.items()
        check_array(str(path), array)
        table = {str(n): array[:, n] for n in range(array.shape[1])}
    kinds = treatment.kinds or {}
    given = [*(treatment.columns or ()), *treatment.drop, *kinds]
    for name in [*given, *filter(None, (treatment.label_column, treatment.id_column))]:
        if name not in table:
            shown = ", ".join(list(table)[:10]) + (", ..." if len(table) > 10 else "")
            raise DataError(f"{path}: there is no column {name!r}; it has {shown}")
    apart = {treatment.label_column, treatment.id_column, *treatment.drop}
    kept = [name for name in (treatment.columns or table) if name not in apart]
    if not kept:
        raise DataError(f"{path}: no column is left")
    _require_cells(path, {name: table[name] for name in kept})
    plan = [
        _named(path, name, table[name], kinds[name]) if name in kinds else _planned(path, name, table[name])
        for name in kept
    ]
    labels, notes = None, list(content.notes)
    if treatment.label_column is not None:
        labels, classes = _classes(path, treatment.label_column, table[treatment.label_column])
        notes.append(f"{counted(classes, 'class', 'classes')} in {treatment.label_column!r}")
    elif content.labels:
        labels = to_labels(where(path, "labels"), content.labels["all"])
    if treatment.id_column is not None:
        notes.append(f"rows named by {treatment.id_column!r}")
    rows, split_labels, how = split(path, np.arange(len(table[kept[0]])), labels, split_seed)
    unnamed = [each for each in plan if not each.levels and each.name not in kinds]
    numbers = [np.asarray(table[each.name], dtype=np.float64) for each in unnamed]
    whole = [each.kind in ("whole", "binary") for each in unnamed]
    scale, why = scale_of(
        path, treatment.scale, numbers, bool(numbers) and all(whole), named=True, classes=labels is not None
    )
    if kinds and not numbers and treatment.scale == "auto":
        scale, why = "standardise", ()
    columns = Columns(
        tuple(_with_numbers(path, each, scale, table[each.name], rows["train"]) for each in plan)
    )
    tensors = {
        part: columns.forward({each.name: table[each.name][own] for each in plan})
        for part, own in rows.items()
    }
    found = f"{counted(len(kept), 'column')}: {columns.described()}; no cell is missing"
    return dataset_of(
        replace(content, notes=tuple(notes)), tensors, split_labels, None, (found, *why), how, columns
    )


def _require_cells(path: Path, table: Arrays) -> None:
    """Refuse cells that are missing, or neither numbers nor texts."""
    for name, values in table.items():
        odd = [cell for cell in values if not isinstance(cell, _CELLS)] if values.dtype.kind == "O" else []
        if odd:
            raise DataError(
                f"{path}: column {name!r} holds cells of the type {type(odd[0]).__name__}, expected numbers "
                "or texts; convert them (a duration to a number, a list to columns), or leave the column "
                "out (--drop)"
            )
    gaps = {}
    for name, values in table.items():
        if values.dtype.kind == "f":
            gaps[name] = int((~np.isfinite(values)).sum())
        elif values.dtype.kind == "O":
            gaps[name] = sum(value is None or value != value for value in values)
    gaps = {name: count for name, count in gaps.items() if count}
    if gaps:
        shown = ", ".join(f"{count} in {name!r}" for name, count in list(gaps.items())[:5])
        total = counted(sum(gaps.values()), "cell is", "cells are")
        raise DataError(
            f"{path}: {total} missing or not finite ({shown}); fill them, drop their rows, leave the columns "
            "out (--drop), or train on rows with gaps in Python (dv.fit_table, dv.with_gaps)"
        )


def _planned(path: Path, name: str, values: np.ndarray, categorical: bool = False) -> Column:
    if values.dtype.kind in "biuf":
        return Column(name, kind_of(values, values.dtype.kind in "biu"))
    texts = [str(level_of(value)) for value in values]
    bad = [row for row, text in enumerate(texts) if not _is_number(text)]
    if 0 < len(bad) <= len(texts) // 2 and not categorical:
        raise DataError(
            f"{path}: column {name!r} holds numbers, but in row {bad[0]} (counted from 0) {texts[bad[0]]!r}; "
            "correct it, leave the column out (--drop), or declare it categorical (--kinds)"
        )
    levels = sorted(set(texts))
    if bad and not categorical and all(_is_number_elsewhere(text) for text in levels):
        raise DataError(
            f"{path}: column {name!r} holds numbers in another notation, such as {levels[-1]!r}; write them "
            "with a decimal point and no other signs, or declare it categorical (--kinds)"
        )
    if len(levels) == 1:
        raise DataError(f"{path}: column {name!r} has {levels[0]!r} in all rows; leave it out (--drop)")
    if len(levels) > _LEVELS_AT_MOST or len(levels) == len(values):
        raise DataError(
            f"{path}: column {name!r} has {len(levels)} different texts in {len(values)} rows; leave it out "
            "(--drop), or use it as names of the rows (--id-column)"
        )
    return Column(name, "category", levels=tuple(levels))


def _named(path: Path, name: str, values: np.ndarray, kind: str) -> Column:
    """Return a column of the kind that the user has named; refuse other values."""
    if values.dtype.kind not in "biuf":
        if kind == "categorical":
            return _planned(path, name, values, categorical=True)
        raise DataError(f"{path}: column {name!r} was declared {kind}, but holds text")
    found = np.asarray(values, dtype=np.float64)
    if kind in ("categorical", "count", "ordinal") and bool((found != found.round()).any()):
        raise DataError(f"{path}: column {name!r} was declared {kind}, but holds numbers that are not whole")
    low, high = float(found.min()), float(found.max())
    if (kind == "count" and low < 0) or (kind == "positive" and low <= 0):
        raise DataError(f"{path}: column {name!r} was declared {kind}, but holds {low:g}")
    if kind == "categorical":
        return Column(name, "category", levels=tuple(str(level_of(value)) for value in np.unique(values)))
    if kind == "ordinal":
        if not 2 <= high - low + 1 <= _LEVELS_AT_MOST:
            raise DataError(
                f"{path}: column {name!r} was declared ordinal, but goes from {low:g} to {high:g}"
            )
        return Column(name, kind, offset=low, size=int(high - low) + 1)
    return Column(name, kind)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_number_elsewhere(text: str) -> bool:
    """Whether a text is a number in another notation: with units, thousands separators or a decimal comma."""
    bare = text.translate(_SIGNS).replace("\u2212", "-")
    return _is_number(bare.replace(",", "")) or _is_number(bare.replace(".", "").replace(",", "."))


def _with_numbers(path: Path, column: Column, scale: str, values: np.ndarray, train: np.ndarray) -> Column:
    if column.levels or column.kind in ("count", "ordinal") or (column.kind == "binary" and scale != "bytes"):
        return column
    own = np.asarray(values, dtype=np.float64)[train][:, None]
    if column.kind == "positive":
        return replace(column, factor=float(np.exp(np.log(own).mean())))
    offset, factor = numbers(path, scale, own, by_column=True)
    kind = "whole" if column.kind == "binary" else column.kind  # of bytes
    return replace(column, kind=kind, offset=float(offset[0]), factor=float(factor[0]))


def _classes(path: Path, name: str, values: np.ndarray) -> tuple[Tensor, int]:
    _require_cells(path, {name: values})
    if values.dtype.kind == "f" and bool((values != values.round()).any()):
        raise DataError(f"{path}: column {name!r} holds numbers that are not whole, so they are no classes")
    _, numbers = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), int(numbers.max()) + 1


def texts_of(frame: Any) -> Arrays:
    """Return the columns of a DataFrame as arrays: numbers with NaN in gaps, others as objects with None.

    Decimals become numbers, and times of midnight dates, as pandas writes them to a text file.
    """
    table = {}
    for name in frame.columns:
        column = frame[name]
        gaps = column.isna()
        if column.dtype.kind in "iuf" or (column.dtype.kind == "b" and not gaps.any()):
            table[str(name)] = (
                column.to_numpy(np.float64, na_value=np.nan) if gaps.any() else column.to_numpy()
            )
            continue
        if column.dtype.kind == "M" and _are_days(column[~gaps]):
            column = column.dt.date
        cells = column.astype(object).where(~gaps, None).to_numpy()
        decimal = all(isinstance(cell, Decimal) for cell in cells[~gaps]) and not gaps.all()
        table[str(name)] = cells.astype(np.float64) if decimal else cells
    return table


def _are_days(times: Any) -> bool:
    return times.dt.tz is None and bool((times == times.dt.normalize()).all())
