"""Sources of rows: the interface, rows in memory, and fingerprints of rows for checkpoints."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.checkpoint import content
from pyro_dvae.errors import InputError

Rows: TypeAlias = "Tensor | slice"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 1 << 26  # bytes read at a time
_GAPS = ContextVar("gaps", default=False)


@contextmanager
def gaps_allowed() -> Iterator[None]:
    """Allow missing cells (NaN, NA or masked) in sources that are opened or read in the body."""
    token = _GAPS.set(True)
    try:
        yield
    finally:
        _GAPS.reset(token)


def gaps_are_allowed() -> bool:
    """Whether :func:`gaps_allowed` is active."""
    return _GAPS.get()


class Source(ABC):
    """Rows of one data argument, or of several that belong together, accessed by index.

    A new kind of source needs a subclass and a line in :mod:`pyro_dvae.rows.data`. :meth:`take` returns rows
    on ``device``. ``columns`` are the names of the columns, if they have names. Rows ``in_memory`` are fast
    to read. ``check`` is called with rows of all data arguments when :class:`Data` reads them.
    """

    device = torch.device("cpu")
    in_memory = False
    columns: tuple[str, ...] = ()
    check: Callable[[tuple[Tensor, ...]], None] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return N."""

    @abstractmethod
    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows [B, ...] of each argument.

        :param rows: indices [B], int64, or a slice.
        """

    def fingerprints(self) -> list[dict[str, Any]]:
        """Return shape, type, digest of the first and last row, and sum of the bits of each argument.

        They do not depend on the kind of source: an array on disk and a tensor have the same fingerprints.
        """
        ends = self.take(torch.tensor([0, len(self) - 1]))
        sums = [0] * len(ends)
        for block in self.blocks():
            for number, part in enumerate(block):
                sums[number] += int(_bits(part).sum(dtype=torch.int64))
        return [
            {
                "shape": [len(self), *end.shape[1:]],
                "dtype": str(end.dtype).removeprefix("torch."),
                "rows": hashlib.sha256(content(end)).hexdigest()[:16],
                "sum": (total + 2**63) % 2**64 - 2**63,  # wraps around like int64
            }
            for end, total in zip(ends, sums, strict=True)
        ]

    def add_to(self, digest: Any) -> None:
        """Add all values to a digest, argument by argument."""
        first = self.take(slice(0, 1))
        for number, part in enumerate(first):
            digest.update(f"{part.dtype}{[len(self), *part.shape[1:]]}".encode())
            for block in self.blocks():
                digest.update(content(block[number]))

    def blocks(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield all rows in order, some megabytes at a time."""
        row = sum(part.nbytes for part in self.take(slice(0, 1)))
        size = max(1, _BLOCK // max(1, row))
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def _bits(part: Tensor) -> Tensor:
    return part.contiguous().reshape(-1).view(_INTEGERS.get(part.element_size(), torch.uint8))


class SourcePart(Source):
    """Some rows of a source.

    :param rows: indices.
    """

    def __init__(self, source: Source, rows: Tensor) -> None:
        self._source, self._rows = source, rows
        self.device, self.in_memory, self.check = source.device, source.in_memory, source.check

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows."""
        return self._source.take(self._rows[rows if isinstance(rows, slice) else rows.cpu()])


class InMemory(Source):
    """Tensors of N rows each, in memory or on a device.

    :param parts: one for each data argument.
    """

    in_memory = True

    def __init__(self, *parts: Tensor) -> None:
        self.parts = tuple(plain(part) for part in parts)
        self.device = self.parts[0].device

    @classmethod
    def checked(cls, argument: str, *parts: Tensor) -> InMemory:
        """Refuse parts that are empty, not finite, or differ in length."""
        for number, part in enumerate(parts):
            check = checks.dense if gaps_are_allowed() else checks.data
            check(f"{argument}[{number}]" if len(parts) > 1 else argument, part)
        same_length([argument] * len(parts), list(parts))
        return cls(*parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows; a slice is not copied."""
        if isinstance(rows, slice):
            return tuple(part[rows] for part in self.parts)
        return tuple(part.index_select(0, rows.to(part.device)) for part in self.parts)


def plain(part: Tensor) -> Tensor:
    """Return rows without a graph, copied if they come from ``torch.inference_mode``, where no model runs."""
    return part.clone() if part.is_inference() else part.detach()


def same_length(arguments: list[str], parts: list[Any]) -> None:
    """Refuse data arguments with different numbers of rows."""
    for argument, part in zip(arguments[1:], parts[1:], strict=True):
        if len(part) != len(parts[0]):
            raise InputError(
                f"{argument}: expected {len(parts[0])} rows, as in {arguments[0]}, got {len(part)}; pass by "
                "keyword what every batch gets whole"
            )


def require_finite(argument: str, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Refuse NaN and infinity in rows of a source that is read batch by batch."""
    for part in parts:
        # A fast test: the sum is finite unless a value is not, or it overflows.
        if part.is_floating_point() and not bool(torch.isfinite(part.sum())):
            bad = int((part.isinf() if gaps_are_allowed() else ~torch.isfinite(part)).sum())
            if not bad:
                continue
            raise InputError(
                f"{argument}: expected finite values, got {bad} NaN or infinite in {len(part)} rows"
            )
    return parts
