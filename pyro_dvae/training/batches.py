"""Mini-batches of training: rows in the order of each epoch, moved to the device and transformed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.distributed import Ranks
from pyro_dvae.errors import InputError, warn
from pyro_dvae.programs.parameters import modules_of
from pyro_dvae.rows import Data, LoaderBatches
from pyro_dvae.training.compiled_steps import CompiledTransform
from pyro_dvae.training.epochs import epoch_order
from pyro_dvae.training.progress import Progress
from pyro_dvae.training.resuming import RunFiles
from pyro_dvae.training.run import Run
from pyro_dvae.training.settings import Settings


def device_for(model: Any, guide: Any, data: torch.device, device: torch.device | str | None) -> torch.device:
    """Return the device of batches: ``device``, else the modules' first parameter's, else the data's."""
    if device is not None:
        chosen = checks.device("device", device)
    else:
        held = [part for module in modules_of(model, guide).values() for part in module.parameters()]
        chosen = held[0].device if held else data
    if chosen.type == "cuda":
        torch.cuda.init()  # so that its random stream is forked, too
    return chosen


class LocalBatch(NamedTuple):
    """The rows of a batch on this process, the size of the whole batch, and the share of these rows in it."""

    rows: tuple[Tensor, ...]
    size: int
    share: float


class Batches(ABC):
    """The batches of each epoch. ``compiled`` is the transform if it draws noise and is compiled.

    :param device: the device of the batches.
    """

    def __init__(self, settings: Settings, seed: int, device: torch.device) -> None:
        self._settings, self.seed, self.device = settings, seed, device
        self.compiled: CompiledTransform | None = None

    @property
    @abstractmethod
    def length(self) -> int | None:
        """The number of batches of an epoch; None if it is unknown."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The usual number of rows of a batch."""

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """Return the rows of a batch, untransformed, for dry runs."""

    @abstractmethod
    def epoch(self, epoch: int, position: int) -> Iterator[LocalBatch]:
        """Yield the batches of an epoch (from 0), starting at a position."""

    @property
    def whole(self) -> bool:
        """Whether each batch has all rows on this process, in their order."""
        return False

    @property
    def as_given(self) -> bool:
        """Whether rows are not transformed."""
        return self._settings.transform is None

    def prepared(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return rows on the device, the first argument transformed."""
        x, *others = self._moved(rows)
        return self._settings.transformed(x), *others

    def _moved(self, rows: tuple[Tensor, ...]) -> list[Tensor]:
        return [x if x.device == self.device else x.to(self.device, non_blocking=True) for x in rows]

    def _as_taken(self, rows: tuple[Tensor, ...], epoch: int, position: int) -> tuple[Tensor, ...]:
        if self.compiled is None:
            return self.prepared(*rows)
        x, *others = self._moved(rows)
        return self.compiled(x, epoch, position), *others


class IndexedBatches(Batches):
    """Batches of indexable rows, in an order that is a function of seed and epoch.

    :param drop_last: leave out the last rows of an epoch if they do not fill a batch.
    """

    def __init__(
        self, data: Data, settings: Settings, seed: int, device: torch.device, drop_last: bool, ranks: Ranks
    ) -> None:
        super().__init__(settings, seed, device)
        self._data, self._ranks = data, ranks
        whole, rest = divmod(len(data), settings.batch_size)
        self._count = whole + (rest > 0 and not drop_last)
        if not self._count:
            raise InputError(f"drop_last: expected a batch_size of at most {rest}, got {settings.batch_size}")

    @property
    def length(self) -> int:
        """The number of batches of an epoch."""
        return self._count

    @property
    def size(self) -> int:
        """The number of rows of every batch but the last."""
        return self._settings.batch_size

    @property
    def whole(self) -> bool:
        """Whether each batch has all rows on this process, in their order."""
        return self.size >= len(self._data) and not self._ranks.several

    def example(self) -> tuple[Tensor, ...]:
        """Return the first rows."""
        return self._data.take(slice(0, self._settings.batch_size))

    def epoch(self, epoch: int, position: int) -> Iterator[LocalBatch]:
        """Yield the batches of an epoch; a process without rows of its own gets the first, with share 0."""
        order = epoch_order(len(self._data), self.size, self.seed, epoch).to(self._data.device)
        for number in range(position, self._count):
            start = number * self.size
            rows = order[start : start + self.size]
            own = rows[self._ranks.share(len(rows))]
            taken = self._data.take(own if len(own) else rows[:1])
            yield LocalBatch(self._as_taken(taken, epoch, number), len(rows), len(own) / len(rows))


class FromLoader(Batches):
    """The batches of a loader, in its own order."""

    def __init__(self, stream: LoaderBatches, settings: Settings, seed: int, device: torch.device) -> None:
        super().__init__(settings, seed, device)
        self.stream = stream
        self._example = stream.first()

    @property
    def length(self) -> int | None:
        """The number of batches of an epoch, if the loader knows it."""
        return self.stream.length

    @property
    def size(self) -> int:
        """The number of rows of the first batch."""
        return len(self._example[0])

    def example(self) -> tuple[Tensor, ...]:
        """Return the first batch of a separate iteration."""
        return self._example

    def epoch(self, epoch: int, position: int) -> Iterator[LocalBatch]:
        """Yield the remaining batches of an epoch; the loader is already at its place."""
        if position == self.length and not self.stream.keeps_its_place:
            return
        for number, rows in enumerate(self.stream, start=position):
            yield LocalBatch(self._as_taken(rows, epoch, number), len(rows[0]), 1.0)

    def go_on(self, run: Run) -> None:
        """Continue at the place of a resumed run if the loader can, else restart a begun epoch and warn."""
        placed = run.place is not None and self.stream.go_to(run.place)
        at_end = run.record.position == self.length and not self.stream.keeps_its_place
        if run.record.position and not (placed or at_end):
            run.begin_epoch_again()
            warn(
                f"data: the loader has no state_dict, so epoch {run.finished + 1} starts again with its "
                "first batch; a StatefulDataLoader (torchdata) continues where it was",
            )


def batches_of(
    data: Data | LoaderBatches,
    settings: Settings,
    seed: int,
    device: torch.device,
    drop_last: bool,
    ranks: Ranks,
) -> IndexedBatches | FromLoader:
    """Return the batches of rows, or of a loader.

    :raises InputError: a loader is given with several processes or ``drop_last``.
    """
    if isinstance(data, Data):
        return IndexedBatches(data, settings, seed, device, drop_last, ranks)
    if ranks.several:
        raise InputError("data: several processes cannot share the batches of a loader; give its data set")
    if drop_last:
        raise InputError("drop_last: a loader makes its own batches; create it with drop_last=True")
    return FromLoader(data, settings, seed, device)


class Epoch:
    """The mini-batches of one epoch, in order; a resumed epoch continues where it stopped."""

    def __init__(self, run: Run, batches: Batches, files: RunFiles, progress: Progress):
        self.index = run.finished
        self._run, self._batches, self._files, self._progress = run, batches, files, progress

    @property
    def number(self) -> int:
        """The epoch, counted from 1."""
        return self.index + 1

    def __len__(self) -> int:
        if self._batches.length is None:
            raise TypeError("the loader does not say how many batches it has")
        return self._batches.length

    def __iter__(self) -> Iterator[Any]:
        if self.index != self._run.finished:
            return
        record = self._run.record
        cuts = self._batches.epoch(self.index, record.position)
        try:
            while True:
                self._files.stop_if_requested()
                cut = next(cuts, None)  # after the check, because its random draws belong to this batch
                if cut is None:
                    break
                record.hand_out(cut.size, cut.share)
                yield cut.rows if len(cut.rows) > 1 else cut.rows[0]
                record.take_back()
                self._progress.step(record.position)
        finally:
            record.abandon()
