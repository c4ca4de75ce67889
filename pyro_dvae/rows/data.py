"""What a model and a guide are called with: rows that are cut together, and what is passed whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.rows.opening import opened
from pyro_dvae.rows.source import InMemory, Part, Rows, Source, same_length
from pyro_dvae.rows.torch_data import Stream


@dataclass(frozen=True)
class Arguments:
    """Some rows of the data arguments, and keyword arguments, as model and guide are called with them.

    :param rows: x first, shapes [B, ...].
    """

    rows: tuple[Tensor, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        """The first data argument."""
        return self.rows[0]

    def __len__(self) -> int:
        """Return B."""
        return len(self.x)

    def __getitem__(self, rows: Rows) -> Arguments:
        """Return the arguments of some of the rows: a slice, or indices on any device."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.x.device)
        return Arguments(tuple(each[rows] for each in self.rows), self.kwargs)

    def of(self, x: Tensor) -> Arguments:
        """Return the arguments with other data in the place of ``x``."""
        return Arguments((x, *self.rows[1:]), self.kwargs)

    def call(self, program: Callable[..., Any]) -> Any:
        """Return what a program returns for them."""
        return program(*self.rows, **self.kwargs)


@dataclass(frozen=True)
class Data:
    """Data arguments of N rows each, cut together, from any sources; and keyword ones, passed whole."""

    sources: tuple[Source, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of the first argument, if they have names."""
        return self.sources[0].columns if self.sources else ()

    @classmethod
    def opened(
        cls,
        argument: str,
        values: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        floats: torch.dtype = torch.float32,
    ) -> Data:
        """Return the data of a front door, or refuse what has not the rows of the first.

        :param argument: its name; further ones are counted from 1.
        :param floats: the type of real numbers that are in no tensor: that of the modules.
        """
        if len(values) == 1 and isinstance(values[0], Data):
            return values[0]
        names = [argument, *(f"{argument}, further argument {n}" for n in range(1, len(values)))]
        sources: list[Source] = []
        for name, value in zip(names, values, strict=True):
            try:
                found = opened(name, value, floats)
            except InputError as error:
                if not sources:
                    raise
                raise InputError(f"{error}; give by keyword what is passed on whole") from error
            if isinstance(found, Stream) and len(values) > 1:
                raise InputError(
                    f"{name}: got a loader and further data arguments, which it may cut in another order; "
                    "let it give tuples with all of them"
                )
            sources.append(found.gathered() if isinstance(found, Stream) else found)
        same_length(names, sources)
        return cls(tuple(sources), {} if kwargs is None else kwargs)

    @classmethod
    def of_tensors(cls, *parts: Tensor) -> Data:
        """Return the data of tensors that were checked."""
        return cls((InMemory(*parts),))

    def __len__(self) -> int:
        """Return N."""
        return len(self.sources[0])

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.sources[0].device

    def part(self, rows: slice) -> Data:
        """Return some rows, one after the other, as data of their own."""
        return self.chosen(torch.arange(len(self))[rows])

    def chosen(self, rows: Tensor) -> Data:
        """Return the rows of these indices as data of their own."""
        return Data(tuple(Part(source, rows) for source in self.sources), self.kwargs)

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows of every argument, each [B, ...]."""
        return tuple(part for source in self.sources for part in source.take(rows))

    def __getitem__(self, rows: Rows) -> Arguments:
        """Return the arguments of some rows."""
        return Arguments(self.take(rows), self.kwargs)

    def split(self, size: int) -> Iterator[Arguments]:
        """Yield the arguments of ``size`` rows after the other."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def fingerprints(self) -> list[dict[str, Any]]:
        """Return what tells each argument's values from others (:meth:`Source.fingerprints`)."""
        return [each for source in self.sources for each in source.fingerprints()]

    def digest(self) -> str:
        """Return a digest of all values, those of keyword tensors included."""
        digest = hashlib.blake2b(digest_size=16)
        for source in self.sources:
            source.add_to(digest)
        for each in self.kwargs.values():
            if isinstance(each, Tensor):
                InMemory(each.reshape(1) if not each.dim() else each).add_to(digest)
        return digest.hexdigest()
