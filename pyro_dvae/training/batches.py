"""The mini-batches of a training: rows in each epoch's order, on the device, transformed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.distributed import Ranks
from pyro_dvae.errors import InputError
from pyro_dvae.programs.parameters import modules_of
from pyro_dvae.training.compiled_steps import CompiledTransform
from pyro_dvae.training.epochs import epoch_order
from pyro_dvae.training.progress import Progress
from pyro_dvae.training.resuming import RunFiles
from pyro_dvae.training.run import Run
from pyro_dvae.training.settings import Settings


def device_for(model: Any, guide: Any, data: Tensor, device: torch.device | str | None) -> torch.device:
    """Return where batches go: to ``device``, else to the modules' first parameter, else they stay."""
    if device is not None:
        chosen = checks.device("device", device)
    else:
        held = [part for module in modules_of(model, guide).values() for part in module.parameters()]
        chosen = held[0].device if held else data.device
    if chosen.type == "cuda":
        torch.cuda.init()  # so that draws there are forked too
    return chosen


class Batches:
    """Cuts ``data`` into batches; ``len`` is how many an epoch has.

    ``compiled`` is the transform, where it draws noise and is compiled.

    :param drop_last: leave out the rows of an epoch that do not fill a batch.
    """

    def __init__(
        self, data: Tensor, settings: Settings, seed: int, device: torch.device, drop_last: bool, ranks: Ranks
    ) -> None:
        self._data, self._settings, self.seed = data, settings, seed
        self.device, self._ranks = device, ranks
        self.compiled: CompiledTransform | None = None
        whole, rest = divmod(len(data), settings.batch_size)
        self._count = whole + (rest > 0 and not drop_last)
        if not self._count:
            raise InputError(f"drop_last: expected a batch_size of at most {rest}, got {settings.batch_size}")

    def __len__(self) -> int:
        return self._count

    def prepared(self, x: Tensor) -> Tensor:
        """Return rows on the device, transformed."""
        if x.device != self.device:
            x = x.to(self.device, non_blocking=True)
        return self._settings.transformed(x)

    def order(self, epoch: int) -> Tensor:
        """Return the rows of an epoch (from 0) in their order."""
        return epoch_order(len(self._data), self.seed, epoch).to(self._data.device)

    def rows(self, order: Tensor, position: int) -> tuple[Tensor, int, float]:
        """Return this process's rows of a batch, how many the batch has, and the share that these are.

        A process without any looks at the first, for nothing.
        """
        start = position * self._settings.batch_size
        rows = order[start : start + self._settings.batch_size]
        own = rows[self._ranks.share(len(rows))]
        return (own if len(own) else rows[:1]), len(rows), len(own) / len(rows)

    def batch(self, rows: Tensor, epoch: int, position: int) -> Tensor:
        """Return the data of the rows, as the model takes them."""
        x = self._data.index_select(0, rows)
        if self.compiled is None:
            return self.prepared(x)
        return self.compiled(x.to(self.device, non_blocking=True), epoch, position)


class Epoch:
    """The mini-batches of one epoch, in their order; a resumed epoch begins where it was stopped."""

    def __init__(self, run: Run, batches: Batches, files: RunFiles, progress: Progress):
        self.index = run.finished
        self._run, self._batches, self._files, self._progress = run, batches, files, progress

    @property
    def number(self) -> int:
        """The epoch, counted from 1."""
        return self.index + 1

    def __len__(self) -> int:
        """Return the number of mini-batches of a whole epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        if self.index != self._run.finished:
            return
        order, record = self._batches.order(self.index), self._run.record
        try:
            while record.position < len(self._batches):
                self._files.stop_if_requested()
                position = record.position
                own, rows, share = self._batches.rows(order, position)
                record.hand_out(rows, share)
                yield self._batches.batch(own, self.index, position)
                record.take_back()
                self._progress.step(record.position)
            self._files.stop_if_requested()
        finally:
            record.abandon()
