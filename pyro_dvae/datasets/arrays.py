"""A user's own array file as a data set: from arrays of any numeric kind to three parts in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.array_files import SPLIT_PARTS, read_csv, read_npy, read_npz
from pyro_dvae.datasets.base import Dataset, image_shape_of, is_binary
from pyro_dvae.datasets.registry import Request, register_file
from pyro_dvae.datasets.splits import permuted_split
from pyro_dvae.errors import DataError

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
    """Load comma-separated numbers, one datum a line, after at most one line of names; split 80 / 10 / 10."""
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
