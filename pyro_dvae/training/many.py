"""Training several models together, as one batched computation."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.distributed import Ranks
from pyro_dvae.distributed.ranks import take_files
from pyro_dvae.errors import InputError, shown, warn
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.machine import available_cores, using_threads
from pyro_dvae.ownership import FileOwner
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data
from pyro_dvae.rows.source import same_length
from pyro_dvae.training.batched_steps import BatchedSteps
from pyro_dvae.training.callbacks.base import Callback, Running
from pyro_dvae.training.epochs import same_type
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History
from pyro_dvae.training.learning_rates import scheduled
from pyro_dvae.training.many_state import ManyState, fingerprints_of
from pyro_dvae.training.noise_keys import NoiseKeysOfMany
from pyro_dvae.training.objective import CHUNK, Validation
from pyro_dvae.training.optimizer import Choice
from pyro_dvae.training.per_model import ManyRunCallbacks, RowsOfMany, each_of, sets_of, updates_of
from pyro_dvae.training.progress import Progress
from pyro_dvae.training.settings import Settings, options_of, seed_of, with_constants
from pyro_dvae.training.stacked import Member, members_of

NOT_OF_MANY = {"accumulate", "compile", "config", "device", "drop_last", "may_change", "metrics"}
Pair = tuple[Callable[..., Any], Callable[..., Any]]


def fit_many(
    pairs: Sequence[Pair],
    data: Any,
    *args: Any,
    loss: ELBO,
    seeds: Sequence[int] | None = None,
    learning_rate: float | Sequence[float] = 1e-3,
    validation: Any = None,
    validate_every: int = 1,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: Choice = None,
    parameter_options: Mapping[str, Mapping[str, Any]] | None = None,
    schedule: Any = None,
    clip_norm: float | None = None,
    freeze: Any = None,
    ema: float | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    evaluate: Callable[[int], float] | None = None,
    callbacks: Iterable[Callback | Callable[[Running], object]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
    resume: bool = False,
    progress: Progress | bool | None = None,
    bfloat16: bool = False,
    **kwargs: Any,
) -> list[Fitted]:
    """Train several pairs of model and guide side by side, and return a trained model for each.

    The training step of the first pair is recorded and batched (``vmap``) over all pairs, so that E small
    models make one computation large enough for the machine. Each pair has its own order of the data, noise
    and learning rate. Up to rounding, it ends with the weights of ``fit(..., seed=seed, compile=True)``. All
    pairs must be the same program: networks, kinds of corruption and settings. Weights, seeds, learning rates
    and values in parameters and buffers (such as levels of corruptions and their schedules) may differ.

    The models' modules are trained in place. Each pair has its own param store; the global one does not
    change. A run that is stopped (Ctrl-C, SIGTERM) ends its epoch, saves and raises :class:`Stopped`; with
    ``resume=True`` it continues from there with the same result.

    :param pairs: E pairs (model, guide) without common parameters.
    :param data: rows [N, ...] from any source: one data set for all pairs, or a list with one of the same
        shape for each.
    :param args: further data arguments of model and guide, likewise, cut like ``data``.
    :param kwargs: further arguments of model and guide, passed whole.
    :param loss: the bound of all pairs.
    :param seeds: seeds of the order of the batches and of the noise; by default 0, 1, ...
    :param learning_rate: one for all, or one for each.
    :param optimizer: as for :class:`Trainer`, but only Adam or AdamW. ``freeze`` takes names alone.
    :param transform: applied to the batch of each model; its random draws are not those of ``fit``.
    :param evaluate: function of the model's number (from 0) that returns its validation bound, in nats per
        observation, in place of the default; called in evaluation mode after every epoch.
    :param callbacks: as for :class:`Trainer`, copied for every model; ``run.number`` is the model's number. A
        model that a callback stops (:class:`EarlyStopping`) keeps its weights while the others continue.
    :param checkpoint: the file to save after every ``checkpoint_every`` epochs, at the end and when stopped;
        no other process may use it at the same time.

    The other options are those of :class:`Trainer`.

    :raises InputError: the pairs do not have the same structure, or a draw cannot be batched.
    :raises CompiledStepError: a comparison shows that the program of a pair has changed undetected.
    """
    if odd := sorted(kwargs.keys() & NOT_OF_MANY):
        raise InputError(f"{odd[0]}: no option of fit_many; call fit for each pair instead")
    settings = Settings.of(locals())
    run = ManyTraining(
        pairs,
        (data, *args),
        settings,
        seeds=seeds,
        learning_rate=learning_rate,
        validation=validation,
        constants=kwargs,
    )
    owner = FileOwner(checkpoint=settings.checkpoint)
    take_files(Ranks.present(), owner)
    try:
        if resume:
            run.resume()
        run.train_all()
    finally:
        owner.release()
    for each in (fitted := run.fitted()):
        each.load_best()
    return fitted


class ManyTraining:
    """The joint training of several models.

    This is :func:`fit_many` in steps, with the same arguments: :meth:`epoch` trains all models for one epoch.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        data: Sequence[Any],
        settings: Settings,
        *,
        seeds: Sequence[int] | None = None,
        learning_rate: float | Sequence[float] = 1e-3,
        validation: Any = None,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(pairs, list | tuple):
            raise InputError(f"pairs: expected a list of (model, guide), got {shown(pairs)}")
        if not pairs:
            raise InputError("pairs: expected at least one (model, guide), got none")
        self._settings = settings
        pairs = [_with(constants or {}, pair) for pair in pairs]
        floats = float_type(*(pairs[0] if isinstance(pairs[0], tuple | list) else ()))
        count = len(pairs)
        names = ["data", *(f"data, further argument {n}" for n in range(1, len(data)))]
        sets = [sets_of(name, each, count, floats) for name, each in zip(names, data, strict=True)]
        same_length(names, [each[0] for each in sets])
        of_model = [Data(each) for each in zip(*sets, strict=True)]
        example = of_model[0].take(slice(0, settings.batch_size))
        self._row = tuple(part[:1].detach().cpu() for part in self._prepared(*example))
        held_out: list[Data] | list[None] = [None] * count
        if validation is not None:
            parts = validation if isinstance(validation, tuple) and len(data) > 1 else (validation,)
            columns = [sets_of("validation", each, count, floats) for each in parts]
            same_length(["validation"] * len(columns), [each[0] for each in columns])
            held_out = [Data(each) for each in zip(*columns, strict=True)]
            if settings.transform is None:
                same_type("validation", held_out[0].take(slice(0, 1)), example)
        self._seeds = each_of("seeds", range(len(pairs)) if seeds is None else seeds, len(pairs), seed_of)
        rates = each_of("learning_rate", learning_rate, len(pairs), checks.positive)
        of_models = {"data": of_model, "validation": [each for each in held_out if each]}
        checked = {} if settings.transform else {name: rows for name, rows in of_models.items() if rows}
        given_rows, rows = self._prepared(*example), len(of_model[0])
        known = (settings.freeze, checked, rows, validation is not None)
        self._members = members_of(pairs, settings.bound, given_rows, *known)
        self._updates = updates_of(self._members, settings, rates)
        self._state = ManyState(self._members, self._updates)
        self._device = next(iter(self._members[0].trained.parameters.values())).device
        self._rows = RowsOfMany(sets, self._seeds, settings, self._device)
        steps = self._rows.steps_per_epoch
        keys = NoiseKeysOfMany(self._seeds, "noise", steps, self._device)
        self._steps = BatchedSteps(self._state, settings, keys)
        chunk = CHUNK * settings.batch_size
        self._validations = [
            Validation(held_out[number], self._evaluation(number), chunk, self._loss_of(member), lambda: None)
            for number, member in enumerate(self._members)
        ]
        validates = validation is not None or settings.evaluate is not None
        self._updates[0].require_validation(validates)
        self._calls = ManyRunCallbacks(self._state, settings, self._seeds, validates, self.fitted)
        choices = {"models": len(pairs), "seeds": self._seeds} | settings.described(rates)
        if settings.optimizer is not None or settings.parameter_options:
            choices["optimizer"] = [update.described for update in self._updates]
        if frozen := self._members[0].trained.frozen:
            choices["freeze"] = list(frozen)
        self._identity = {"settings": choices} | fingerprints_of(of_models)

    @property
    def histories(self) -> list[History]:
        """The finished epochs of each model."""
        return self._state.histories

    def train_all(self) -> None:
        """Train to the last epoch; the models get the final parameters."""
        settings, state, path = self._settings, self._state, self._settings.checkpoint
        settings.progress.start(state.histories[0], settings.epochs, self._rows.steps_per_epoch)
        try:
            with Interrupts() as interrupts, using_threads(min(torch.get_num_threads(), available_cores())):
                self._calls.at("start")
                while state.finished < settings.epochs and not all(state.stopped):
                    self.epoch()
                    stopped = interrupts.requested
                    due = stopped or all(state.stopped) or settings.checkpoint_is_due(state.finished - 1)
                    if path is not None and due:
                        self._save(path)
                    if stopped and state.finished < settings.epochs:
                        raise Stopped(path)
        finally:
            settings.progress.stop()
            self._calls.at("end")

    def _save(self, path: Path) -> None:
        state, stopped = self._state, list(self._state.stopped)
        state.save(path, self._identity, self._calls.state_dict())
        self._calls.at("checkpoint")
        if state.stopped != stopped:  # the requests belong into the checkpoint
            state.save(path, self._identity, self._calls.state_dict())

    def epoch(self) -> None:
        """Train every model for one epoch."""
        settings, state = self._settings, self._state
        for member in self._members:
            member.trained.refuse_unfrozen()
            for part in scheduled(member.trained, member.bound):
                part.set_epoch(state.finished)
        began, compiling = time.monotonic(), self._steps.seconds
        self._steps.refresh()
        state.take_buffers()
        orders = self._rows.orders(state.finished)
        factor = settings.rate_factor(state.finished)
        for update in self._updates:
            update.begin_epoch(factor)
        going = torch.tensor([not stopped for stopped in state.stopped], device=self._device).double()
        options = going.new_tensor([update.step_options() for update in self._updates])
        options[..., 0] *= going[:, None]  # the rates
        losses, sizes = [], self._rows.sizes()
        for position in range(self._rows.steps_per_epoch):
            losses.append(self._steps.take(self._rows.batch(orders, position), options, position))
            state.move_averages(going)
            if self._calls.note_step(losses[-1], sizes[position]):
                self._steps.refresh()
            settings.progress.step(position + 1)
        state.to_models()
        seconds = time.monotonic() - began - (self._steps.seconds - compiling)
        self._end_epoch(torch.stack(losses), seconds)
        settings.progress.epoch(state.histories[0])
        self._calls.at("epoch")

    def resume(self) -> None:
        assert self._settings.checkpoint is not None
        path, epochs = self._settings.checkpoint, self._settings.epochs
        self._calls.load_state_dict(self._state.resume(path, self._identity, epochs))

    def fitted(self) -> list[Fitted]:
        """Return the result of each model."""
        return [replace(each, rows=self._row) for each in self._state.fitted()]

    def _end_epoch(self, losses: Tensor, seconds: float) -> None:
        """Add the epoch with ``losses`` [steps, E] to the histories, and validate."""
        state = self._state
        bounds = self._bounds(losses)
        for number, member in enumerate(self._members):
            if state.stopped[number]:
                continue
            history, update = state.histories[number], self._updates[number]
            finite = math.isfinite(bounds[number])
            if not finite and all(math.isfinite(b or 0) for b in history.train_bound):
                warn(
                    f"model {number} diverged in epoch {state.finished + 1}: its loss is not finite; "
                    f"its learning rate is {update.rate:g}; the others continue",
                )
            with update.averaged():
                validated = self._validated(number, member) if finite else None
                better = history.add(bounds[number], validated, update.rate, seconds / len(self._members))
                if better or (update.average is not None and history.best_epoch is None):
                    state.best[number] = {name: t.clone() for name, t in member.trained.tensors().items()}
            update.end_epoch(validated)
        state.finished += 1

    def _bounds(self, losses: Tensor) -> list[float]:
        """Return the mean bound per row of each model, from the ``losses`` [steps, E] of an epoch."""
        sizes, columns = self._rows.sizes(), losses.double().T.tolist()  # one wait for a GPU
        return [
            -math.fsum(map(member.loss.per_row, column, sizes)) / self._rows.rows
            for member, column in zip(self._members, columns, strict=True)
        ]

    def _validated(self, number: int, member: Member) -> float | None:
        finished, stopping = self._state.finished, self._calls.stopping(number)
        if not (stopping or self._settings.validation_is_due(finished)):
            return None
        with member.with_store():
            return self._validations[number].bound(member.trained, self._seeds[number], finished)

    def _prepared(self, rows: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        if self._settings.transform is None:
            return rows, *others
        made = checks.dense("transform", self._settings.transformed(rows))
        if made.requires_grad:
            raise InputError("transform: expected a result without a gradient; train networks in the guide")
        return made, *others

    def _evaluation(self, number: int) -> Callable[[], float] | None:
        evaluate = self._settings.evaluate
        return None if evaluate is None else lambda: evaluate(number)

    def _loss_of(self, member: Member) -> Callable[..., Tensor | float]:
        return lambda *rows: member.bound.loss(member.model, member.guide, *self._prepared(*rows))


def _with(constants: Mapping[str, Any], pair: Any) -> Any:
    """Return a pair with constant arguments; an invalid pair is refused later."""
    if not constants or not isinstance(pair, tuple | list) or len(pair) != 2:
        return pair
    return with_constants(constants, pair[0], pair[1], options_of(fit_many))
