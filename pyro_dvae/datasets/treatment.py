"""The content of a user's file, the user's choices about it, and its scale and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.datasets.base import Dataset, is_binary, permuted_split
from pyro_dvae.datasets.columns import CHOSEN, Columns
from pyro_dvae.errors import DataError, InputError, shown

Arrays = dict[str, np.ndarray]
SCALES = ("auto", "none", "unit", "standardise", "bytes")
PARTS = ("train", "validation", "test")
_BYTES = 255


@dataclass(frozen=True)
class Treatment:
    """A user's choices about a file; ``source`` reports automatic choices.

    :param scale: "none"; "unit" (to [0, 1] by the least and largest training value); "standardise" (mean 0
        and standard deviation 1 of the training rows); "bytes" (divided by 255); "auto" chooses "none" or
        "standardise", and refuses whole numbers.
    :param columns: names of the columns to keep (numbers from 0 if there are no names); None keeps all.
    :param drop: names of columns to leave out.
    :param label_column: the column of the classes.
    :param id_column: a column that names the rows.
    :param array: name of the array in an archive.
    :param kinds: kinds of columns by name, which replace automatic ones: "categorical", "count",
        "heavy-tailed", "ordinal", "positive" or "real".
    """

    scale: str = "auto"
    columns: Sequence[str] | None = None
    drop: Sequence[str] = ()
    label_column: str | None = None
    id_column: str | None = None
    array: str | None = None
    kinds: Mapping[str, str] | None = None

    def checked(self) -> Treatment:
        """Refuse arguments of wrong types."""
        checks.known("scale", self.scale, SCALES)
        for name in ("columns", "drop"):
            value = getattr(self, name)
            texts = isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
            if not (texts or (name == "columns" and value is None)):
                raise InputError(f"{name}: expected names of columns, got {value!r}")
        for name in ("label_column", "id_column", "array"):
            checks.optional(checks.text, name, getattr(self, name))
        if self.kinds is not None and not isinstance(self.kinds, Mapping):
            raise InputError(f"kinds: expected a mapping of column to kind, got {shown(self.kinds)}")
        for kind in (self.kinds or {}).values():
            checks.known("kinds", kind, CHOSEN)
        kept = None if self.columns is None else tuple(self.columns)
        return replace(self, columns=kept, drop=tuple(self.drop))


@dataclass(frozen=True)
class Content:
    """The content of a file before treatment.

    :param path: the file.
    :param parts: arrays [N, ...] of numbers, for each part or for "all" rows.
    :param labels: classes [N] of the same parts.
    :param table: columns [N] by name, instead of ``parts``.
    :param notes: choices made while reading.
    :param named: whether the file is an archive of arrays with names.
    """

    path: Path
    parts: Arrays = field(default_factory=dict)
    labels: Arrays = field(default_factory=dict)
    table: Arrays | None = None
    notes: tuple[str, ...] = ()
    named: bool = False


def kind_of(values: np.ndarray, whole: bool) -> str:
    """Return "binary", "whole" or "real"."""
    if bool(((values == 0) | (values == 1)).all()):
        return "binary"
    return "whole" if whole else "real"


def scale_of(
    path: Path, scale: str, arrays: list[np.ndarray], whole: bool, named: bool, classes: bool
) -> tuple[str, tuple[str, ...]]:
    """Return the scale, and a text about the choice.

    :param whole: whether all are whole numbers, whose meaning is unknown unless the rows have ``classes``.
    :param named: whether the columns have names.
    """
    low = min((float(array.min()) for array in arrays), default=0.0)
    high = max((float(array.max()) for array in arrays), default=0.0)
    binary = all(bool(((array == 0) | (array == 1)).all()) for array in arrays)
    if scale == "bytes" and not (whole and low >= 0 and high <= _BYTES):
        raise DataError(f"{path}: --scale bytes is for whole numbers from 0 to 255, got {low:g} to {high:g}")
    if scale != "auto":
        return scale, (f"scale: {scale}",)
    if binary:
        return "none", ("values as they are",)
    if whole and not classes:
        raise DataError(
            f"{path}: whole numbers from {low:g} to {high:g} may be pixels, counts or classes; choose "
            "--scale bytes (divided by 255), --scale none (counts, as they are), or --scale standardise (as "
            "real numbers)"
        )
    if not named and not whole and low >= 0 and high <= 1:
        return "none", ("values as they are",)
    return "standardise", ("standardised by the training rows (--scale)",)


def numbers(path: Path, scale: str, train: np.ndarray, by_column: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and factor of every column [D], or common ones."""
    axis = 0 if by_column else None
    size = train.shape[1]
    zero, one = np.zeros(size), np.ones(size)
    if scale == "none":
        return zero, one
    if scale == "bytes":
        return zero, one * _BYTES
    values = np.asarray(train, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if scale == "unit":
            offset, width = values.min(axis), values.max(axis) - values.min(axis)
        else:
            offset = values.mean(axis)
            from_mean = values - offset
            # In this unit, squares of very small numbers are not rounded to 0.
            largest = np.abs(from_mean).max(axis)
            unit = np.where((largest > 0) & (largest < 1), largest, 1.0)
            width = unit * (from_mean / unit).std(axis)
    if not np.isfinite(width).all():
        raise DataError(f"{path}: the spread of its values is too large for 64-bit numbers; rescale them")
    factor = np.where(np.asarray(width) > 0, width, 1.0)
    return zero + offset, one * factor


def to_labels(where: str, array: np.ndarray) -> Tensor:
    """Check classes, and return them as int64 [N]."""
    whole = array.dtype.kind in "iub" or (array.dtype.kind == "f" and bool((array == np.round(array)).all()))
    if array.ndim != 1 or not whole:
        raise DataError(f"{where}: expected whole numbers [N], got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype(np.int64))


def split(
    path: Path, data: np.ndarray, labels: Tensor | None, seed: int
) -> tuple[Arrays, dict[str, Tensor], str]:
    """Return the rows of each part, 80 / 10 / 10, their classes, and a text about the split."""
    rows = len(data)
    if rows < 3:
        raise DataError(f"{path}: expected at least 3 rows to split into three parts, got {rows}")
    if labels is not None and len(labels) != rows:
        raise DataError(f"{path}: expected {rows} labels, one for each row, got {len(labels)}")
    held_out = max(1, rows // 10)
    cut = permuted_split(rows, (rows - 2 * held_out, held_out, held_out), seed)
    chosen = dict(zip(PARTS, cut, strict=True))
    classes = {} if labels is None else {part: labels[own] for part, own in chosen.items()}
    how = f"by a permutation with seed {seed}"
    return {part: data[own.numpy()] for part, own in chosen.items()}, classes, how


def dataset_of(
    content: Content,
    parts: dict[str, Tensor],
    labels: dict[str, Tensor],
    shape: tuple[int, ...] | None,
    found: tuple[str, ...],
    how: str,
    columns: Columns | None,
    scale: tuple[float, float] = (0.0, 1.0),
) -> Dataset:
    """Return the data set, whose ``source`` describes content and treatment.

    :param scale: offset and factor of all values of an array without ``columns``.
    """
    sizes = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
    still = [] if columns is None else _constant(parts["train"], columns)
    found = (*found, f"constant in the training rows: {', '.join(still)}") if still else found
    notes = "; ".join((*content.notes, *found))
    return Dataset(
        name=content.path.name,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        train_labels=labels.get("train"),
        validation_labels=labels.get("validation"),
        test_labels=labels.get("test"),
        image_shape=shape,
        binary=is_binary(*parts.values()),
        source=f"file {content.path}; {sizes}, {how}; {notes}",
        columns=columns,
        offset=scale[0],
        factor=scale[1],
    )


def _constant(train: Tensor, columns: Columns) -> list[str]:
    """Return the first few columns that have one value in all training rows."""
    same = (train == train[0]).all(0) & (len(train) > 1)
    names = [name for name, still in zip(columns.names, same.tolist(), strict=True) if still]
    return names[:5] + ["..."] * (len(names) > 5)


def where(path: Path, part: str) -> str:
    """Return the beginning of a message, with file and part."""
    return str(path) if part == "all" else f"{path}, {part.removeprefix('all ')}"
