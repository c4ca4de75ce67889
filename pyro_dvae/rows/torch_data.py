"""Rows of torch's data sets, and batches of loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from pyro_dvae import checks, random_state
from pyro_dvae.calling import calling
from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.rows.arrays import tensor_of
from pyro_dvae.rows.source import InMemory, Rows, Source, plain, require_finite, same_length


def parts_of(argument: str, batch: Any, floats: torch.dtype) -> tuple[Tensor, ...]:
    """Return the tensors of a batch in order; it may be a tensor, an array, or a tuple of them.

    :raises InputError: it is anything else, or the lengths of its parts differ.
    """
    parts = batch if isinstance(batch, list | tuple) else (batch,)
    found = []
    for part in parts:
        if isinstance(part, np.ndarray):
            part = tensor_of(argument, part, floats)
        if not isinstance(part, Tensor) or not part.dim():
            raise InputError(
                f"{argument}: expected batches of tensors [B, ...] or tuples of them, got "
                f"{_described(part)}; return them from the data set or the loader's collate_fn"
            )
        found.append(plain(checks.dense(argument, part)))
    if not found:
        raise InputError(
            f"{argument}: expected batches with at least one tensor, got an empty {type(batch).__name__}"
        )
    same_length([f"{argument}, part {number + 1}" for number in range(len(found))], found)
    return require_finite(argument, tuple(found))


def _described(part: Any) -> str:
    if isinstance(part, Mapping):
        return f"a dict of {', '.join(map(repr, part))}"
    return "a single number" if isinstance(part, Tensor) else f"a {type(part).__name__}"


def dataset_source(argument: str, dataset: Any, floats: torch.dtype) -> Source:
    """Return the rows of a map-style data set of torch."""
    if type(dataset) is TensorDataset:
        return InMemory.checked(argument, *dataset.tensors)
    return DatasetItems(argument, dataset, floats, default_collate)


class DatasetItems(Source):
    """The items of a map-style data set, collated in batches; each part of a tuple is a data argument."""

    def __init__(
        self, argument: str, dataset: Any, floats: torch.dtype, collate: Callable[[list[Any]], Any]
    ) -> None:
        self._argument, self._dataset, self._floats, self._collate = argument, dataset, floats, collate
        if not len(self):
            raise InputError(f"{argument}: expected at least one row, got an empty data set")
        self.take(slice(0, 1))

    def __len__(self) -> int:
        return len(self._dataset)

    def take(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return some rows, read item by item."""
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        with calling(self._argument):
            items = [self._dataset[number] for number in numbers]
        try:
            batch = self._collate(items)
        except (TypeError, RuntimeError) as error:
            raise InputError(
                f"{self._argument}: its items cannot be put into one tensor "
                f"({str(error).splitlines()[0]}); return tensors of one shape "
                "(for images, give the data set a transform: torchvision.transforms.ToTensor())"
            ) from error
        parts = parts_of(self._argument, batch, self._floats)
        if not _of_tensors(items[0]):  # collating makes doubles of Python's and numpy's numbers
            parts = tuple(part.to(self._floats) if part.is_floating_point() else part for part in parts)
        return parts


def _of_tensors(item: Any) -> bool:
    return all(isinstance(part, Tensor) for part in (item if isinstance(item, list | tuple) else (item,)))


class LoaderBatches:
    """The batches of a loader, in its own order and sizes.

    :param loader: a DataLoader, or any iterable that can be iterated again.
    """

    def __init__(self, argument: str, loader: Iterable[Any], floats: torch.dtype) -> None:
        if isinstance(loader, Iterator):
            raise InputError(
                f"{argument}: an iterator gives its rows only once, but every epoch needs them; give a "
                "DataLoader, or an object whose __iter__ starts again"
            )
        self._argument, self._loader, self._floats = argument, loader, floats
        self.check: Callable[[tuple[Tensor, ...]], None] | None = None  # as of a source

    @property
    def length(self) -> int | None:
        """The number of batches in an epoch; None if the loader does not know it."""
        try:
            return len(self._loader)  # type: ignore[arg-type]
        except TypeError:
            return None

    @property
    def rows(self) -> int | None:
        """The number of rows of an epoch, as far as the data set of a DataLoader tells; None if unknown."""
        try:
            return len(self._loader.dataset)  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            return None

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self._loader:
            parts = parts_of(self._argument, batch, self._floats)
            if self.check is not None:
                self.check(parts)
            yield parts

    def first(self) -> tuple[Tensor, ...]:
        """Return the first batch of a separate iteration, which does not affect the next one.

        This holds if batches follow from the global random streams, from generators of a DataLoader and its
        samplers, or from a loader that stores its position.
        """
        place = self.place()
        with random_state.forked():
            parts = next(iter(self), None)
        self.go_to(place)
        if parts is None:
            raise InputError(f"{self._argument}: expected at least one batch, got none")
        return parts

    @property
    def keeps_its_place(self) -> bool:
        """Whether the loader can store and restore its position (torchdata's StatefulDataLoader)."""
        return all(callable(getattr(self._loader, name, None)) for name in ("state_dict", "load_state_dict"))

    def place(self) -> dict[str, Any]:
        """Return the position of the loader and the states of its generators, as far as known."""
        with random_state.forked():
            loader = self._loader.state_dict() if self.keeps_its_place else None  # type: ignore[attr-defined]
        return {"loader": loader, "generators": [each.get_state() for each in self._generators()]}

    def go_to(self, place: Mapping[str, Any]) -> bool:
        """Let the next iteration continue from a position; return whether the loader can.

        :raises CheckpointError: this is not a position that :meth:`place` returned.
        """
        if missing := {"loader", "generators"} - place.keys():
            raise CheckpointError(f"the place of its loader has no {' and no '.join(sorted(missing))}")
        known = place["loader"] is not None and self.keeps_its_place
        if known:
            with random_state.forked():
                self._loader.load_state_dict(place["loader"])  # type: ignore[attr-defined]
                # StatefulDataLoader moves there, and draws a seed, only at its next use.
                self._loader.state_dict()  # type: ignore[attr-defined]
        for generator, state in zip(self._generators(), place["generators"], strict=False):
            generator.set_state(state)
        return known

    def _generators(self) -> list[torch.Generator]:
        """Return the generators of a DataLoader and its samplers."""
        batches = getattr(self._loader, "batch_sampler", None)
        owners = (
            self._loader,
            getattr(self._loader, "sampler", None),
            batches,
            getattr(batches, "sampler", None),
        )
        found = [getattr(each, "generator", None) for each in owners]
        return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())

    def gathered(self) -> Source:
        """Return all rows, read once into memory; for a loader of all items, the data set's own rows."""
        loader = self._loader
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            plain = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
            sampler = loader.sampler
            # With a user's batch sampler, the sampler does not choose the rows.
            whole = getattr(loader.batch_sampler, "sampler", None) is sampler and isinstance(sampler, plain)
            whole = whole and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
            if whole and not getattr(sampler, "replacement", False) and not loader.drop_last:
                return DatasetItems(
                    self._argument, loader.dataset, self._floats, loader.collate_fn or default_collate
                )
        columns = list(zip(*self, strict=True))
        if not columns:
            raise InputError(f"{self._argument}: expected at least one batch, got none")
        with calling(self._argument):
            parts = [torch.cat(column) for column in columns]
        return InMemory.checked(self._argument, *parts)


def is_map_style(value: Any) -> bool:
    """Whether this is a torch data set with indexed items."""
    return isinstance(value, torch.utils.data.Dataset) and not isinstance(value, IterableDataset)
