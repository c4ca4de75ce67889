"""Converts the columns of a table for a model, and back to original values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.errors import DataError

KINDS = ("binary", "whole", "real", "category", "count", "ordinal", "positive", "heavy-tailed")
CHOSEN = ("categorical", "count", "heavy-tailed", "ordinal", "positive", "real")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    The model gets (value − offset) / factor, and for a category the number of its level, from 0.

    :param name: its name; its number from 0 if the file has no names.
    :param kind: one of :data:`KINDS`; the last four are named by a user.
    :param offset: number to subtract.
    :param factor: number to divide by.
    :param levels: the texts of a category.
    :param size: number of levels of an ordinal column.
    """

    name: str
    kind: str
    offset: float = 0.0
    factor: float = 1.0
    levels: tuple[str, ...] = ()
    size: int = 0

    def checked(self, values: np.ndarray) -> np.ndarray:
        """Return numbers, NaN in gaps, or refuse values that a column of a kind that the user named lacks."""
        try:
            found = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"column {self.name!r}: expected numbers, got text") from None
        seen = found[~np.isnan(found)]
        whole, least, most = self.kind in ("count", "ordinal"), -math.inf, math.inf
        if self.kind in ("count", "ordinal"):
            least = self.offset
        if self.kind == "ordinal":
            most = self.offset + self.size - 1
        bad = (seen < least) | (seen > most) | (whole & (seen != seen.round()))
        bad |= (self.kind == "positive") & (seen <= 0)
        if bad.any():
            raise DataError(f"column {self.name!r}: {seen[bad][0]:g} is no value of this {self.described}")
        return found

    @property
    def described(self) -> str:
        """The kind in words, with its values."""
        if self.kind == "ordinal":
            return f"ordinal column (whole numbers from {self.offset:g} to {self.offset + self.size - 1:g})"
        values = {"count": " (whole numbers from 0)", "positive": " (numbers above 0)"}
        return f"{self.kind} column{values.get(self.kind, '')}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Column:
        """Return the column from the result of ``dataclasses.asdict``."""
        try:
            return cls(**{**values, "levels": tuple(values["levels"])})
        except (TypeError, KeyError) as error:
            raise DataError(f"columns: expected the columns of a run, got {values!r}") from error


def level_of(value: Any) -> str | None:
    """Return the text of a category's cell, None of a gap; whole numbers have no decimals, also as floats."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)


@dataclass(frozen=True)
class Columns:
    """The columns of a table in order."""

    columns: tuple[Column, ...]

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> Columns:
        """Return the columns from the result of :meth:`as_list`."""
        return cls(tuple(Column.from_dict(each) for each in values))

    def as_list(self) -> list[dict[str, Any]]:
        """Return the columns as JSON-able values."""
        return [{**asdict(each), "levels": list(each.levels)} for each in self.columns]

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(each.name for each in self.columns)

    @property
    def has_texts(self) -> bool:
        """Whether a column is a category, whose original values are texts."""
        return any(each.levels for each in self.columns)

    @property
    def log_factor(self) -> float:
        """The number to subtract from a log-density of scaled values for original values (nats)."""
        return float(np.log([each.factor for each in self.columns]).sum())

    def kinds(self) -> list[str | tuple[str, int]]:
        """Return the kind of each column for :class:`~pyro_dvae.networks.TableDecoder`."""
        found: list[str | tuple[str, int]] = []
        for each in self.columns:
            if each.kind == "category":
                found.append(("categorical", len(each.levels)))
            elif each.kind == "ordinal":
                found.append(("ordinal", each.size))
            else:
                found.append("real" if each.kind == "whole" else each.kind)
        return found

    def described(self) -> str:
        """Return the number of columns of each kind, in words."""
        counts = Counter(each.kind for each in self.columns)
        return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])

    def forward(self, values: Mapping[str, np.ndarray]) -> Tensor:
        """Return rows [N, D] for a model, from original values by column, each [N]."""
        parts = []
        for column in self.columns:
            if column.name not in values:
                raise DataError(f"there is no column {column.name!r}; it has {', '.join(list(values)[:10])}")
            found = values[column.name]
            if column.levels:
                number = {level: float(n) for n, level in enumerate(column.levels)}
                texts = [level_of(value) for value in found]
                if new := sorted(text for text in set(texts) if text is not None and text not in number):
                    raise DataError(
                        f"column {column.name!r}: {new[0]!r} is none of {', '.join(column.levels)}"
                    )
                parts.append(np.array([math.nan if text is None else number[text] for text in texts]))
            else:
                parts.append((column.checked(found) - column.offset) / column.factor)
        return torch.from_numpy(np.stack(parts, 1).astype(np.float32))

    def back(self, rows: Tensor) -> dict[str, np.ndarray]:
        """Return original values by column, each [N], from rows [N, D] on the scale of a model.

        Whole numbers are not rounded, because they may be means. A category has no mean; NaN remains a gap.
        """
        array = rows.detach().cpu().double().numpy()
        if array.ndim != 2 or array.shape[1] != len(self):
            raise DataError(f"rows: expected {len(self)} values in each, got shape {list(array.shape)}")
        found = {}
        for column, values in zip(self.columns, array.T, strict=True):
            if column.levels:
                numbers = np.where(np.isnan(values), len(column.levels), values).astype(int)
                found[column.name] = np.array([*column.levels, ""])[numbers]
            else:
                found[column.name] = values * column.factor + column.offset
        return found
