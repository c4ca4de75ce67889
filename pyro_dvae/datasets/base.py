"""A loaded data set, its split, and the error for a data set that is not available."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.datasets.array_scale import ArrayScale, Units, limits_of
from pyro_dvae.datasets.columns import Columns
from pyro_dvae.errors import DataError, InputError, shown


def permuted_split(rows: int, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Cut a random permutation of ``range(rows)`` into index tensors of the given sizes.

    It uses NumPy's ``RandomState``, whose stream is frozen, so the split is the same in every version.
    """
    if sum(sizes) != rows:
        raise ValueError(f"sizes: expected a sum of {rows}, got {list(sizes)}")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(rows))
    return list(order.split(list(sizes)))


class UnavailableError(DataError):
    """A data set that is missing and could not be downloaded, or whose reader is not installed."""


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class Dataset:
    """The training, validation and test parts of a data set, each a floating-point tensor ``[N, D]``.

    ``image_shape`` is (height, width) or (channels, height, width): ``train[n].reshape(image_shape)`` is the
    image. A table has none. ``source`` describes where the values came from and how they were split and
    transformed. ``columns`` converts the values of a table back to original columns and units; those of an
    array are ``offset + factor * value``. If this data set replaces another one that was not available,
    ``substituted_for`` names that one.
    """

    name: str
    train: Tensor = field(repr=False)
    validation: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    train_labels: Tensor | None = field(repr=False)
    validation_labels: Tensor | None = field(repr=False)
    test_labels: Tensor | None = field(repr=False)
    image_shape: tuple[int, ...] | None
    binary: bool
    source: str
    substituted_for: str | None = None
    columns: Columns | None = field(default=None, repr=False)
    offset: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            self._check_part(part, getattr(self, part))
            self._check_labels(part, getattr(self, f"{part}_labels"))
        checks.flag("binary", self.binary)
        if self.image_shape is not None:
            self._check_shape(self.image_shape)
        checks.optional(self._check_columns, "columns", self.columns)
        if self.columns is not None and len(self.columns) != self.dimension:
            raise DataError(
                f"{self.name}: expected columns of {self.dimension} values, got {len(self.columns)}"
            )
        checks.number("offset", self.offset)
        checks.positive("factor", self.factor)
        if self.binary and not is_binary(self.train, self.validation, self.test):
            raise DataError(f"{self.name}: declared binary, but holds values other than 0 and 1")

    def to(self, dtype: torch.dtype) -> Dataset:
        """Return the data set with its three parts in another floating-point type."""
        if dtype == self.train.dtype:
            return self
        parts = {part: getattr(self, part).to(dtype) for part in ("train", "validation", "test")}
        return replace(self, **parts)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """The shape of an image; a table raises :class:`DataError`."""
        if self.image_shape is None:
            raise DataError(f"{self.name}: its rows are not images")
        return self.image_shape

    @property
    def units(self) -> Units:
        """What converts the values back to original units."""
        if self.columns is not None:
            return self.columns
        return ArrayScale(self.offset, self.factor, self.dimension)

    @property
    def limits(self) -> tuple[float, float]:
        """The values, in original units, that pictures of the images show in black and white."""
        low, high = (self.offset + self.factor * each for each in limits_of(self.train))
        return low, high

    @property
    def dimension(self) -> int:
        """The number of values in one observation, D."""
        return self.train.shape[1]

    def _check_part(self, part: str, data: Any) -> None:
        where = f"{self.name}, {part}"
        if not isinstance(data, Tensor) or not data.is_floating_point() or data.dim() != 2:
            raise DataError(f"{where}: expected a floating-point tensor [N, D], got {_describe(data)}")
        if data.dtype != self.train.dtype:
            raise DataError(f"{where}: expected {self.train.dtype} as in train, got {data.dtype}")
        if data.shape[1] != self.dimension:
            raise DataError(
                f"{where}: expected {self.dimension} values per row, as in train, got {data.shape[1]}"
            )
        try:
            checks.finite(where, data)
        except InputError as error:
            raise DataError(str(error)) from None

    @staticmethod
    def _check_columns(argument: str, columns: Any) -> None:
        checks.instance(argument, columns, Columns, "pyro_dvae.datasets.columns.Columns")

    def _check_shape(self, sizes: Any) -> None:
        whole = isinstance(sizes, tuple) and all(type(each) is int and each > 0 for each in sizes)
        if not whole or len(sizes) not in (2, 3) or math.prod(sizes) != self.dimension:
            raise DataError(
                f"{self.name}: expected an image_shape of two or three whole numbers with product "
                f"{self.dimension}, got {shown(sizes)}"
            )

    def _check_labels(self, part: str, labels: Any) -> None:
        if labels is None:
            return
        rows = getattr(self, part).shape[0]
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (rows,):
            raise DataError(
                f"{self.name}, {part}_labels: expected an int64 tensor [{rows}], got {_describe(labels)}"
            )


def is_binary(*parts: Tensor) -> bool:
    """Whether every value is exactly 0 or 1."""
    # In portions, because the first often decides.
    return all(bool(((rows == 0) | (rows == 1)).all()) for part in parts for rows in part.split(1000))


def image_shape_of(dimension: int) -> tuple[int, int]:
    """Return the image shape of a flat row: a square if ``dimension`` is a square number, else one line."""
    side = math.isqrt(dimension)
    return (side, side) if side * side == dimension else (1, dimension)


def needs(module: str, package: str, dataset: str) -> ModuleType:
    """Import ``module`` late, so that the library itself loads without ``package``."""
    try:
        return importlib.import_module(module)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # a torchvision for another torch raises RuntimeError
        cause = " ".join(str(error).split())
        raise UnavailableError(
            f"dataset {dataset!r} needs the package {package} ({cause}); run `pip install {package}`"
        ) from error


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
