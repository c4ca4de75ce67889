"""What a model and a guide are called with: rows that are cut together, and what is passed whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """Positional arguments are data, tensors of N rows each, cut together; keyword ones are passed whole.

    :param rows: x first, shapes [N, ...].
    """

    rows: tuple[Tensor, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, x: Any, others: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        """Return the arguments of a front door, or refuse what has not the rows of ``x``."""
        count = len(checks.data("x", x))
        for number, other in enumerate(others, start=1):
            shape = tuple(other.shape) if isinstance(other, Tensor) else type(other).__name__
            if not isinstance(other, Tensor) or other.shape[:1] != (count,):
                raise InputError(
                    f"positional argument {number} after x: expected a tensor with the {count} rows of x, "
                    f"which it is cut with, got {shape}; give by keyword what is passed on whole"
                )
        return cls((x.detach(), *(other.detach() for other in others)), kwargs)

    @property
    def x(self) -> Tensor:
        """The data."""
        return self.rows[0]

    def __len__(self) -> int:
        """Return N."""
        return len(self.x)

    def __getitem__(self, rows: slice | Tensor) -> Arguments:
        """Return the arguments of some of the rows."""
        if isinstance(rows, Tensor):
            return Arguments(tuple(each[rows.to(each.device)] for each in self.rows), self.kwargs)
        return Arguments(tuple(each[rows] for each in self.rows), self.kwargs)

    def split(self, size: int) -> Iterator[Arguments]:
        """Yield the arguments of ``size`` rows after the other."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def of(self, x: Tensor) -> Arguments:
        """Return the arguments with other data in the place of ``x``."""
        return Arguments((x, *self.rows[1:]), self.kwargs)

    def call(self, program: Callable[..., Any]) -> Any:
        """Return what a program returns for them."""
        return program(*self.rows, **self.kwargs)

    def tensors(self) -> list[Tensor]:
        """Return all that are tensors, keyword arguments included."""
        return [*self.rows, *(each for each in self.kwargs.values() if isinstance(each, torch.Tensor))]
