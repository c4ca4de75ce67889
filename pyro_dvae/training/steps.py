"""The steps of a run, compiled if possible, of one process or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import random_state
from pyro_dvae.calling import calling
from pyro_dvae.distributed import Ranks, Sum
from pyro_dvae.distributed.parallel import SharedBatch
from pyro_dvae.distributed.ranks import seed_of_rank, starting_random
from pyro_dvae.errors import warn
from pyro_dvae.training.batches import Batches
from pyro_dvae.training.callbacks.base import RunCallbacks
from pyro_dvae.training.compiled_steps import (
    WORTH_IT,
    BatchPart,
    CompiledSteps,
    CompiledTransform,
    Training,
)
from pyro_dvae.training.noise_keys import NoiseKeys
from pyro_dvae.training.objective import Loss
from pyro_dvae.training.run import Run
from pyro_dvae.training.settings import Settings
from pyro_dvae.training.stopping import Faults, Requests

_CHECK_EVERY = 1_000  # steps between two checks of the losses on an asynchronous device


class Steps:
    """Takes gradient steps, and records their losses in the run's record.

    ``compiled`` takes them as long as it can; ``compile_seconds`` is the time that compiling took.

    :param loss: the loss of this process's rows; over all processes, it adds up to the batch's loss.
    :param shared: the batch of several processes.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        loss: Loss,
        shared: SharedBatch | None,
        faults: Faults,
        ranks: Ranks,
        requests: Requests,
        calls: RunCallbacks,
    ) -> None:
        self._run, self._settings, self._loss, self._calls = run, settings, loss, calls
        self._faults, self._ranks, self._requests = faults, ranks, requests
        self._shared = shared
        self._sum: Sum | None = None
        self.compiled: CompiledSteps | None = None

    @property
    def compile_seconds(self) -> float:
        """The time that compiling took, in seconds."""
        return 0.0 if self.compiled is None else self.compiled.seconds

    def take(self, *batch: Tensor) -> Tensor:
        """Take one step on a batch; return its loss, detached."""
        if self._shared is not None:
            self._shared.copy_buffers()
        with torch.enable_grad():  # training under torch.no_grad would change nothing
            loss = None if self.compiled is None else self._compiled(self.compiled, batch)
            loss = self._ordinary(batch) if loss is None else loss
        self._calls.at("step")
        return loss

    def compile(self, batches: Batches, programs: tuple[Any, ...], say: Callable[[str], object]) -> None:
        """Take compiled steps from now on, and compile the transform of ``batches`` if it draws noise.

        :param programs: the model, guide and bound that the loss calls.
        :param say: called with progress messages.
        """
        run, settings, ranks = self._run, self._settings, self._ranks
        seed = seed_of_rank(ranks, batches.seed)
        whole = len(range(batches.size)[ranks.share(batches.size)])

        def keys(purpose: str) -> NoiseKeys:
            return NoiseKeys(seed, purpose, batches.length, batches.device)

        def worth_compiling(rows: int) -> bool:
            return rows == whole or settings.epochs >= WORTH_IT

        clip, scales = settings.clip_norm, self._loss.scales
        training = Training(programs, self._of_batch, run.update, clip, self._rows, ranks, scales)
        noise = keys("noise")
        self.compiled = CompiledSteps(training, settings.numerics, noise, say, worth_compiling, run.recorded)
        if settings.transform is not None:
            batches.compiled = CompiledTransform(settings.transform, keys("transform"), say, worth_compiling)

    def _ordinary(self, batch: tuple[Tensor, ...]) -> Tensor:
        run = self._run
        run.clear_gradients()
        with calling("model, guide, data"), self._faults.explained(*batch):
            loss = self._of_batch(*batch)
        detached = loss.detach()
        value = self._checked(detached)
        if loss.requires_grad:
            loss.backward()
        if self._ranks.several:
            self._sum_gradients(self._part(batch).share > 0)
        run.update.take(self._rows(len(batch[0])))
        self._note(value)
        return detached

    def _compiled(self, compiled: CompiledSteps, batch: tuple[Tensor, ...]) -> Tensor | None:
        record, before = self._run.record, compiled.seconds
        loss = compiled(batch, self._run.finished, record.fresh_position, self._part(batch))
        record.leave_out(compiled.seconds - before)
        if loss is None:
            warn(f"training by uncompiled steps, which are slower: {compiled.failure}")
            self.compiled = None
        else:
            self._note(self._checked(loss))
        return loss

    def _checked(self, loss: Tensor) -> Tensor | float:
        """Return the loss over all processes, as a number unless that means waiting; refuse NaN."""
        ahead = loss.device.type != "cpu"
        value = self._requests.agreed(0.0 if ahead else loss.item(), self._run.record.step, ahead)
        self._faults.require_finite(value)
        return loss if ahead else value

    def _sum_gradients(self, counts: bool) -> None:
        leaves = self._run.update.leaves
        if self._sum is None:
            self._sum = Sum(self._ranks, [leaves[0].new_zeros(len(leaves)), *leaves])
        self._sum.gradients(leaves, counts)

    def _part(self, batch: tuple[Tensor, ...]) -> BatchPart:
        record = self._run.record
        return BatchPart(record.rows or len(batch[0]), self._ranks.part(record.share))

    def _of_batch(self, *batch: Tensor) -> Tensor:
        with self._run.trained.without_frozen_gradients():
            return self._loss(*batch, batch=self._run.record.rows)

    def _rows(self, rows: int) -> float | None:
        """Return the rows of the current batch if its loss is scaled to a whole data set; else None."""
        return float(self._run.record.rows or rows) if self._loss.scales.subsampled else None

    def _note(self, loss: Tensor | float) -> None:
        record = self._run.record
        per_row = self._loss.per_row(loss, record.rows)
        record.add(per_row)
        if record.rows:
            self._calls.run.note(per_row, record.rows)
        if len(record.pending) >= _CHECK_EVERY:
            self._faults.require_finite_losses()


def over_ranks(
    loss: Loss, example: tuple[Tensor, ...], batches: Batches, run: Run, ranks: Ranks
) -> tuple[Loss, SharedBatch]:
    """Return the loss of this process's rows as a part of the batch's loss, and the batch.

    From now on the run has separate noise on each process.

    :param loss: the loss of a single process.
    :param example: rows of the data, for dry runs.
    """
    run.random = starting_random(ranks, batches.seed)
    with random_state.forked():
        rows = batches.prepared(*example)
    shared = SharedBatch(ranks, loss.compute, run.trained, rows)

    def compute(*rows: Tensor) -> Tensor:
        return shared.loss(rows, ranks.part(run.record.share))

    return replace(loss, compute=compute), shared
