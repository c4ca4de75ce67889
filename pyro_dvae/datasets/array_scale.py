"""The common scale of an array's values, and the units of any data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.columns import Columns
from pyro_dvae.errors import DataError


@dataclass(frozen=True)
class ArrayScale:
    """The scale of all values of an array: the model gets (value − offset) / factor.

    :param offset: number to subtract.
    :param factor: number to divide by.
    :param size: D, the values of a row.
    """

    offset: float
    factor: float
    size: int

    has_texts = False

    def __len__(self) -> int:
        return self.size

    @property
    def log_factor(self) -> float:
        """The number to subtract from a log-density of scaled values for original values (nats)."""
        return self.size * math.log(self.factor)

    def forward(self, values: Mapping[str, np.ndarray]) -> Tensor:
        """Return rows [N, D] for a model, from original values by column, each [N], in their order."""
        for name, each in values.items():
            if each.dtype.kind not in "biuf":
                raise DataError(f"column {name!r} holds texts, the run's data are numbers")
        return scaled(np.stack(list(values.values()), 1), np.array([self.offset]), np.array([self.factor]))

    def original(self, rows: Tensor) -> np.ndarray:
        """Return original values [N, D], float64, of rows [N, D] on the scale of a model."""
        found = rows.detach().cpu().numpy()
        if not self.offset:  # exact for whole numbers, like :func:`scaled`
            return (found * found.dtype.type(self.factor)).astype(np.float64)
        return found.astype(np.float64) * self.factor + self.offset

    def back(self, rows: Tensor) -> dict[str, np.ndarray]:
        """Return original values by column, each [N]; the names are numbers from 0."""
        return by_number(self.original(rows))


Units = Columns | ArrayScale


def units_of(data: Mapping[str, Any]) -> Units:
    """Return the units of the data that ``config.json`` describes.

    :raises DataError: its columns are not those of a run.
    """
    if data.get("columns") is not None:
        return Columns.from_list(data["columns"])
    return ArrayScale(data["offset"], data["factor"], data["dimension"])


def scaled(array: np.ndarray, offset: np.ndarray, factor: np.ndarray) -> Tensor:
    """Return (array − offset) / factor, float32 [N, D]."""
    if not offset.any() and (factor == factor[0]).all():
        return torch.from_numpy(np.asarray(array, dtype=np.float32) / np.float32(factor[0]))
    return torch.from_numpy(((np.asarray(array, dtype=np.float64) - offset) / factor).astype(np.float32))


def by_number(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of rows [N, D], each [N], by their numbers from 0."""
    return {str(number): values for number, values in enumerate(rows.T)}


def limits_of(rows: Tensor) -> tuple[float, float]:
    """Return the values that a picture of images ``rows`` shows in black and white.

    They are 0 and 1 if all values are between them, else the least and the largest value.
    """
    low, high = float(rows.min()), float(rows.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1
