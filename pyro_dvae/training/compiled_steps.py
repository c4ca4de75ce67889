"""The trainer's compiled steps, with noise that is a function of seed, epoch and position."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.distributed import Ranks, Sum
from pyro_dvae.engine import NoCompiler, Unrecordable, record
from pyro_dvae.engine.compiler import Compiled, build, interpret
from pyro_dvae.engine.hashed_noise import draw_keys, hash_noise
from pyro_dvae.engine.step import CompiledGradient, CompiledStep, CompiledUpdate, Numerics, record_for
from pyro_dvae.engine.surroundings import global_settings
from pyro_dvae.training.noise_keys import NoiseKeys
from pyro_dvae.training.objective import PlateScales
from pyro_dvae.training.recorded import TOO_MANY, Recorded
from pyro_dvae.training.update import Update

WORTH_IT = 5_000  # number of steps from which compiling saves time by default: see docs/performance.md


@dataclass(frozen=True)
class Training:
    """The parts of a compiled step.

    :param programs: model, guide and bound, which may read numbers that a recording freezes.
    :param loss: the differentiable loss of a batch, in nats, summed over it.
    :param update: the update of the parameters. Adam is compiled with the gradient; another optimizer, or an
        update from accumulated batches, is called.
    :param clip_norm: largest joint norm of all gradients.
    :param rows: returns the argument of :meth:`Update.take` for a number of rows.
    :param ranks: the ranks over which gradients are summed.
    :param scales: the weights of a row in the loss, which each recording sets.
    """

    programs: tuple[Any, ...]
    loss: Callable[..., Tensor]
    update: Update
    clip_norm: float | None
    rows: Callable[[int], float | None]
    ranks: Ranks
    scales: PlateScales


@dataclass(frozen=True)
class BatchPart:
    """The number of rows of a batch, and this process's share of them."""

    rows: int
    share: float


class SharedStep:
    """A compiled step of several processes: gradient of this process's rows, sum over processes, update.

    :param gradient: the gradient of this process's rows.
    :param total: the sum over the processes.
    :param update: Adam's update; None if another optimizer is called.
    :param counts: whether this process has rows of the batch.
    """

    def __init__(
        self, gradient: CompiledGradient, total: Sum, update: CompiledUpdate | None, counts: bool
    ) -> None:
        self.leaves, self.draws, self.recording = gradient.leaves, gradient.draws, gradient.recording
        self._gradient, self._total, self._counts, self.update = gradient, total, counts, update

    def valid(self) -> bool:
        """Whether it was compiled for the current parameters and optimizer."""
        return self._gradient.valid() and (self.update is None or self.update.valid())

    def __call__(self, tensors: Sequence[Tensor], keys: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the loss of this process's rows, and the sums of losses and gradients over processes."""
        found = self._gradient(tensors, keys)
        sums = self._total(found, self._counts)
        if self.update is not None:
            self.update()
        return found[0], sums


Step = CompiledStep | CompiledGradient | SharedStep


class CompiledSteps:
    """Training steps, compiled when a shape of a batch first occurs.

    ``failure`` says why steps cannot be compiled, once that is known; ``seconds`` is the time that compiling
    took so far. Before every step, the values that the programs read are compared with the recorded ones, and
    a change leads to a new recording. Some steps are compared with the program
    (:mod:`pyro_dvae.engine.verification`).

    :param say: called with progress messages.
    :param worth_compiling: whether batches of a number of rows are frequent; the recorded steps of other
        batches (such as the last of an epoch) run uncompiled, with the same result.
    :param recorded: the recordings of the run so far.
    """

    def __init__(
        self,
        training: Training,
        numerics: Numerics,
        keys: NoiseKeys,
        say: Callable[[str], object],
        worth_compiling: Callable[[int], bool],
        recorded: Recorded,
    ) -> None:
        self._training, self._numerics, self._keys, self._say = training, numerics, keys, say
        self._worth_compiling, self._recorded = worth_compiling, recorded
        self._steps: dict[Any, list[tuple[Step, float]]] = {}  # with the weight of a row
        self.failure = TOO_MANY if recorded.too_many else None
        self.seconds = 0.0

    def __call__(
        self, batch: Sequence[Tensor], epoch: int, position: int | None, part: BatchPart
    ) -> Tensor | None:
        """Take a step on ``batch``; return its loss on the device, or None if it cannot be compiled.

        :param position: position of the batch in its epoch, which determines the noise; None for noise from
            torch's generator.
        :param part: this process's part of the batch.
        """
        settings = global_settings()
        if isinstance(settings, str):
            self.failure = settings
            return None
        batch = [each.detach().contiguous() for each in batch]
        shapes = tuple((each.shape, each.dtype, each.device) for each in batch)
        steps = self._steps.setdefault((shapes, settings, part), [])
        known = self._training.scales.known
        for each in [each for each in steps if not each[0].valid()]:
            steps.remove(each)
            self._recorded.forget(each[0].recording.surroundings, part.rows)
        found = next((each for each in steps if each[0].recording.surroundings.unchanged()), None)
        if found is None:
            compiled = self._compiled(batch, part)
            if compiled is None:
                return None
            found = compiled, known[part.rows]
            steps.append(found)
        step, known[part.rows] = found
        drawn = position is not None and step.draws > 0
        return self._take(step, batch, self._keys.at(epoch, position or 0, step.draws) if drawn else None)

    def _take(self, step: Step, batch: Sequence[Tensor], keys: Tensor | None) -> Tensor:
        update = self._training.update
        if isinstance(step, CompiledStep):
            loss = step(batch, keys)
            update.note_step()
            return loss
        if isinstance(step, SharedStep):
            loss, (total, *gradients) = step(batch, keys)
            if step.update is not None:
                update.note_step()
                return loss
        else:
            total, *gradients = step(batch, keys)
            loss = total
        good = torch.isfinite(total).all()
        if good.is_cpu and not good:  # a non-finite loss changes no parameter
            return loss
        for leaf in update.leaves:
            leaf.grad = None
        for leaf, gradient in zip(step.leaves, gradients, strict=True):
            leaf.grad = torch.where(good, gradient, 0.0)  # without waiting for a GPU
        update.take(self._training.rows(len(batch[0])))
        return loss

    def _compiled(self, batch: list[Tensor], part: BatchPart) -> Step | None:
        if self.failure is not None:
            return None
        began, compiled = time.perf_counter(), self._worth_compiling(len(batch[0]))
        if compiled:
            what = "another training step" if any(self._steps.values()) else "the training step"
            shapes = ", ".join(str(tuple(each.shape)) for each in batch)
            self._say(f"compiling {what}, batches of {shapes} ...")
        step, failure = None, None
        try:
            step = self._built(batch, compiled, part)
        except (Unrecordable, NoCompiler) as error:
            failure = str(error)
        self.failure = next(filter(None, self._training.ranks.gather(failure)), None)
        if self.failure is not None:
            return None
        took = time.perf_counter() - began
        self.seconds += took
        if compiled:
            self._say(f"compiled in {took:.1f} s")
        return step

    def _built(self, batch: list[Tensor], compiled: bool, part: BatchPart) -> Step:
        training = self._training

        def loss_and_grads(*batch: Tensor) -> Tensor:
            loss = training.loss(*batch)
            if loss.requires_grad:
                loss.backward()
            return loss

        leaves = training.update.leaves
        gradient = record_for(loss_and_grads, leaves, batch, self._numerics, training.programs)
        if not gradient.leaves:
            raise Unrecordable("there is nothing that a step would change")
        self._recorded.add(gradient.recording.surroundings, part.rows)
        slots = training.update.slots(gradient.leaves)
        if training.ranks.several:
            total = Sum(training.ranks, [gradient.leaves[0].new_zeros(()), *gradient.leaves])
            alone = CompiledGradient(gradient, batch, compiled)
            update = slots and CompiledUpdate(slots, total.places, training.clip_norm, compiled)
            return SharedStep(alone, total, update or None, part.share > 0)
        if slots is None:
            return CompiledGradient(gradient, batch, compiled)
        return CompiledStep(gradient, slots, batch, training.clip_norm, compiled)


class CompiledTransform:
    """A compiled transform of batches; a transform without noise is not compiled.

    :param say: called with progress messages.
    :param worth_compiling: whether batches of a number of rows are frequent; others run uncompiled.
    """

    def __init__(
        self,
        transform: Callable[[Tensor], Tensor],
        keys: NoiseKeys,
        say: Callable[[str], object] = lambda message: None,
        worth_compiling: Callable[[int], bool] = lambda rows: True,
    ) -> None:
        self._transform, self._keys, self._say = transform, keys, say
        self._worth_compiling = worth_compiling
        self._found: dict[Any, tuple[Compiled, int] | None] = {}

    def __call__(self, rows: Tensor, epoch: int, position: int) -> Tensor:
        shape = (tuple(rows.shape), rows.dtype)
        if shape not in self._found:
            self._found[shape] = self._compiled(rows)
        found = self._found[shape]
        if found is None:
            return self._transform(rows)
        run, draws = found
        return run([rows, self._keys.at(epoch, position, draws)])[0]

    def _compiled(self, rows: Tensor) -> tuple[Compiled, int] | None:
        try:
            graph = record(lambda rows: [self._transform(rows)], rows)
            draws = hash_noise(graph)
            if not draws:
                return None
            if not self._worth_compiling(len(rows)):
                return interpret(graph), draws
            self._say("compiling the transform of batches ...")
            example = [rows, draw_keys(draws, rows.device, torch.Generator(rows.device).manual_seed(0))]
            return build(graph, example), draws
        except (Unrecordable, NoCompiler):
            return None
