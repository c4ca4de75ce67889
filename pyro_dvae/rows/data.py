"""The arguments of a model and a guide: rows from any source, which are batched together, and constants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError, shown
from pyro_dvae.rows.arrays import Sparse, array_source, frame_of, frame_source, is_array, packages_of
from pyro_dvae.rows.source import InMemory, Rows, Source, SourcePart, same_length
from pyro_dvae.rows.torch_data import LoaderBatches, dataset_source, is_map_style


@dataclass(frozen=True)
class Arguments:
    """Some rows of the data arguments, and the keyword arguments of model and guide.

    :param rows: x first, shapes [B, ...].
    """

    rows: tuple[Tensor, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        """The first data argument."""
        return self.rows[0]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Rows) -> Arguments:
        """Return the arguments of some of the rows: a slice, or indices on any device."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.x.device)
        return Arguments(tuple(each[rows] for each in self.rows), self.kwargs)

    def of(self, x: Tensor) -> Arguments:
        """Return the arguments with ``x`` replaced."""
        return Arguments((x, *self.rows[1:]), self.kwargs)

    def call(self, program: Callable[..., Any]) -> Any:
        """Call a program with these arguments and return its result."""
        return program(*self.rows, **self.kwargs)


@dataclass(frozen=True)
class Data:
    """Data arguments of N rows each from any sources, batched together, and constant keyword arguments."""

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
        """Return the data of a public function; refuse arguments with another number of rows than the first.

        :param argument: name of the first argument; further ones are numbered from 1.
        :param floats: the type of real numbers outside tensors, which is that of the modules.
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
                raise InputError(f"{error}; pass by keyword what every batch gets whole") from error
            if isinstance(found, LoaderBatches) and len(values) > 1:
                raise InputError(
                    f"{name}: got a loader and further data arguments, whose rows may have another order; "
                    "let the loader return tuples of all of them"
                )
            sources.append(found.gathered() if isinstance(found, LoaderBatches) else found)
        same_length(names, sources)
        return cls(tuple(sources), {} if kwargs is None else kwargs)

    @classmethod
    def of_tensors(cls, *parts: Tensor) -> Data:
        """Return the data of checked tensors."""
        return cls((InMemory(*parts),))

    def __len__(self) -> int:
        return len(self.sources[0])

    @property
    def device(self) -> torch.device:
        return self.sources[0].device

    def part(self, rows: slice) -> Data:
        """Return consecutive rows as new data."""
        return self.chosen(torch.arange(len(self))[rows])

    def chosen(self, rows: Tensor) -> Data:
        """Return the rows with these indices as new data."""
        return Data(tuple(SourcePart(source, rows) for source in self.sources), self.kwargs)

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows of every argument, each [B, ...]."""
        found = tuple(part for source in self.sources for part in source.take(rows))
        if (check := self.sources[0].check) is not None:
            check(found)
        return found

    def __getitem__(self, rows: Rows) -> Arguments:
        """Return the arguments of some rows."""
        return Arguments(self.take(rows), self.kwargs)

    def split(self, size: int) -> Iterator[Arguments]:
        """Yield the arguments in chunks of ``size`` rows."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def fingerprints(self) -> list[dict[str, Any]]:
        """Return a fingerprint of each argument's values (:meth:`Source.fingerprints`)."""
        return [each for source in self.sources for each in source.fingerprints()]

    def digest(self) -> str:
        """Return a digest of all values, including keyword tensors."""
        digest = hashlib.blake2b(digest_size=16)
        for source in self.sources:
            source.add_to(digest)
        for each in self.kwargs.values():
            if isinstance(each, Tensor):
                InMemory(each.reshape(1) if not each.dim() else each).add_to(digest)
        return digest.hexdigest()


EXPECTED = (
    "a tensor [N, ...], a numpy array (also memory-mapped), a scipy.sparse matrix, a pandas DataFrame, a "
    "torch Dataset or DataLoader"
)


def opened(argument: str, value: Any, floats: torch.dtype) -> Source | LoaderBatches:
    """Return the rows of any source, or its batches if it has its own order.

    Tensors and torch data sets keep their types; real numbers of other sources become ``floats``.

    :raises InputError: the kind of source is unknown; the message says how to pass rows.
    """
    if isinstance(value, Tensor):
        return InMemory.checked(argument, value)
    if isinstance(value, np.ndarray):
        return array_source(argument, value, floats)
    if "scipy" in packages_of(value) and hasattr(value, "tocsr"):
        return Sparse(argument, value, floats)
    if is_map_style(value):
        return dataset_source(argument, value, floats)
    with calling(argument):
        frame = frame_of(value)
    if frame is not None:
        return frame_source(argument, frame, floats)
    if is_array(value):
        with calling(argument):
            array = np.asarray(value)
        return array_source(argument, array, floats)
    if isinstance(value, Mapping):
        keys = ", ".join(f"{argument}[{key!r}]" for key in value)
        what = f"give its parts one after the other: {keys}" if keys else "it is empty"
        raise InputError(f"{argument}: got a dict; {what}")
    if isinstance(value, list | tuple):
        raise InputError(
            f"{argument}: expected {EXPECTED}, got {type(value).__name__}; give rows as one tensor "
            "(torch.tensor, torch.stack), several data arguments one after the other (model, guide, x, y)"
        )
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | type):
        return LoaderBatches(argument, value, floats)
    raise InputError(f"{argument}: expected {EXPECTED}, got {shown(value)}")


def source_of(argument: str, value: Any, floats: torch.dtype) -> Source:
    """Return the rows of any source; a loader is read into memory."""
    found = opened(argument, value, floats)
    return found.gathered() if isinstance(found, LoaderBatches) else found


def portion(argument: str, value: Any) -> tuple[int, int]:
    """Check and return ``value``, (k, n) for part k of n with k from 0; None becomes (0, 1)."""
    if value is None:
        return 0, 1
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(f"{argument}: expected (k, n), part k of n with k from 0, got {shown(value)}")
    parts = checks.count(argument, value[1])
    return checks.count(argument, value[0], 0, parts - 1), parts


def share(rows: int, number: int, parts: int) -> slice:
    """Return part ``number`` of ``rows`` rows; the sizes of parts differ by at most one, and may be 0."""
    least, more = divmod(rows, parts)
    start = number * least + min(number, more)
    return slice(start, start + least + (number < more))
