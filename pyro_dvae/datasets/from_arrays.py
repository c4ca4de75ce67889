"""Makes a data set from arrays of numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pyro_dvae.datasets.array_scale import scaled
from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.columns import Column, Columns
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


def of_arrays(content: Content, treatment: Treatment, split_seed: int) -> Dataset:
    """Return the data set from an array of all rows, or from an array for each part."""
    path = content.path
    flat, shape = flat_parts(content)
    shape = channels_first(shape)
    whole = all(array.dtype.kind in "biu" for array in flat.values())
    labels = {part: to_labels(where(path, f"{part} labels"), array) for part, array in content.labels.items()}
    if "all" in flat:
        flat, labels, how = split(path, flat["all"], labels.get("all"), split_seed)
    else:
        how = "split as in the file"
    scale, why = scale_of(
        path, treatment.scale, list(flat.values()), whole, named=False, classes=bool(labels)
    )
    offset, factor = numbers(path, scale, flat["train"], by_column=len(shape) == 1)
    columns = kinds = None
    if len(shape) == 1 and scale in ("unit", "standardise"):
        every = np.concatenate(list(flat.values()))
        kinds = [kind_of(every[:, n], whole) for n in range(shape[0])]
        binary = np.array(kinds) == "binary"  # not scaled
        offset, factor = np.where(binary, 0.0, offset), np.where(binary, 1.0, factor)
    tensors = {part: scaled(array, offset, factor) for part, array in flat.items()}
    if kinds is not None:
        each = zip(map(str, range(shape[0])), kinds, offset.tolist(), factor.tolist(), strict=True)
        columns = Columns(tuple(Column(*values) for values in each))
    values = (min(float(a.min()) for a in flat.values()), max(float(a.max()) for a in flat.values()))
    found = f"{'whole' if whole else 'real'} numbers from {values[0]:g} to {values[1]:g}"
    image = None if columns is not None else _image_shape(shape, tensors)
    common = (0.0, 1.0) if columns is not None else (float(offset[0]), float(factor[0]))
    return dataset_of(content, tensors, labels, image, (found, *why), how, columns, common)


def flat_parts(content: Content, gaps: bool = False) -> tuple[Arrays, tuple[int, ...]]:
    """Return the rows of each part, [N, D], with the channels of images first, and the shape of a row.

    :param gaps: whether cells may be missing (NaN).
    """
    shapes, flat = set(), {}
    for part, array in content.parts.items():
        check_array(where(content.path, part), array, gaps)
        shapes.add(array.shape[1:])
        ordered = np.moveaxis(array, 3, 1) if _channels_last(array.shape[1:]) else array
        flat[part] = ordered.reshape(len(array), -1)
    if len(shapes) > 1:
        found = ", ".join(f"{part} {list(array.shape)}" for part, array in content.parts.items())
        raise DataError(f"{content.path}: expected parts with rows of one shape, got {found}")
    return flat, shapes.pop()


def as_in_file(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return rows [N, D] in the ``shape`` that :func:`flat_parts` found, [N, *shape]."""
    found = rows.reshape(len(rows), *channels_first(shape))
    return np.moveaxis(found, 1, 3) if _channels_last(shape) else found


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a row in which the channels of an image, 1 or 3, come first."""
    return (shape[2], *shape[:2]) if _channels_last(shape) else shape


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] not in (1, 3) and shape[2] in (1, 3)


def picture_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (height, width), or (3, height, width), of an image whose channels come first."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _image_shape(shape: tuple[int, ...], parts: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Return the shape of an image; None for a table. A flat row of square size in [0, 1] may be an image."""
    if len(shape) > 1:
        return picture_shape(shape)
    side = round(shape[0] ** 0.5)
    pixels = all(float(part.min()) >= 0 and float(part.max()) <= 1 for part in parts.values())
    return (side, side) if pixels and side > 1 and side * side == shape[0] else None


def check_array(where: str, array: np.ndarray, gaps: bool = False) -> None:
    """Refuse an array without rows, or with non-finite numbers other than allowed ``gaps`` (NaN)."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers, got the dtype {array.dtype}")
    if array.ndim not in (2, 3, 4):
        raise DataError(
            f"{where}: expected an array [N, D], [N, H, W] or [N, C, H, W], got the shape {list(array.shape)}"
        )
    if array.size == 0:
        raise DataError(f"{where}: expected at least one value, got the shape {list(array.shape)}")
    if array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] not in (1, 3):
        raise DataError(f"{where}: expected images of 1 or 3 colours, got the shape {list(array.shape)}")
    if array.dtype.kind != "f" or gaps:
        return
    bad = ~np.isfinite(array)
    if bad.any():
        row, *rest = np.unravel_index(int(bad.argmax()), array.shape)
        column = ", ".join(str(int(index)) for index in rest)
        raise DataError(
            f"{where}: expected finite values, got {int(bad.sum())} NaN or infinite of {array.size}, "
            f"the first in row {int(row)}, column {column} (counted from 0); fill them or drop their rows"
        )
