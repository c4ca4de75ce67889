"""Training any Pyro model and guide by any bound: one fused Adam, exact resume, the best epoch kept.

::

    trainer = Trainer(model, guide, TraceDenoising_ELBO(), train, validation=held_out)
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
    trainer.load_best()

:func:`fit` is that loop. A run that was stopped, by Ctrl-C in the middle of an epoch or by a lost machine,
and is resumed with ``resume=True`` ends, on the same machine, with the weights it would have had, bit for
bit. What it cannot know of is state that is neither a parameter nor a buffer nor a global random state.
Its random stream depends on nothing but the seed of the order and the global random states at the start:
validation, progress and checkpoints leave it as it is.

With ``torch.distributed`` initialised, every process of the group makes the same trainer and runs the same
loop: each takes its share of the rows of every batch, with noise of its own (:mod:`.distributed.streams`),
and all make the step of the whole batch. Rank 0 writes the files and shows progress.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pyro_dvae import checks, random_state
from pyro_dvae.calling import calling
from pyro_dvae.checkpoint import save_checkpoint
from pyro_dvae.distributed import Ranks, streams
from pyro_dvae.distributed.ranks import take_files
from pyro_dvae.engine.step import Numerics
from pyro_dvae.errors import CheckpointError, DivergenceError, InputError
from pyro_dvae.files import user_path
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.machine import threads_for, using_threads
from pyro_dvae.ownership import FileOwner
from pyro_dvae.programs.parameters import discover, modules_of
from pyro_dvae.training import learning_rates, run_state
from pyro_dvae.training.compiled_steps import WORTH_IT, CompiledSteps, CompiledTransform, Keys, Training
from pyro_dvae.training.diagnosis import InSupport, first_fault
from pyro_dvae.training.epochs import EpochRecord, data_tensor, epoch_order, same_type
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import FIRST_LOSSES, History, MetricsFile
from pyro_dvae.training.learning_rates import left_out, scheduled
from pyro_dvae.training.progress import Progress, Silent, progress_for, told
from pyro_dvae.training.run_state import adam, adam_tensors, assign_adam
from pyro_dvae.training.validation import PlateScales, Validation, due

if TYPE_CHECKING:
    from pyro_dvae.distributed.parallel import ParallelBound


_CHECK_EVERY = 1_000  # steps of a long epoch between two looks at the losses on a device that computes ahead
_AGREE_EVERY = 20  # steps there between two looks at whether any of several processes is to stop
_VALIDATION_CHUNK = 4  # validation rows at a time, in batch sizes


class _Interrupted(Exception):  # noqa: N818 - not an error
    """A stop was requested while validating."""


class Epoch:
    """The mini-batches of one epoch, in their order; a resumed epoch begins where it was stopped."""

    def __init__(self, index: int, trainer: Trainer):
        self.index = index
        self._trainer = trainer

    @property
    def number(self) -> int:
        """The epoch, counted from 1."""
        return self.index + 1

    def __len__(self) -> int:
        """Return the number of mini-batches of a whole epoch."""
        return self._trainer.steps_per_epoch

    def __iter__(self) -> Iterator[Tensor]:
        return self._trainer._batches(self.index)


class Trainer:
    """Trains ``model`` and ``guide`` by gradient steps on ``loss``, in mini-batches of ``data``.

    It trains what Pyro's ``SVI`` would: the parameters that param statements announce (``pyro.param``,
    ``pyro.module``, a ``PyroModule``). A warning names what modules hold beside, which stays as it is. Each
    epoch starts with all schedules (of corruptions, priors, guides and the bound) moved to their values.

    Bounds in the history are in nats per datum: of ``plate("data", N, subsample=x)`` the scale N / B is taken
    out. With latents that all data share they are the bound of all N data, divided by N; without a plate of
    the rows, the loss of a batch divided by its rows.

    :param model: any Pyro callable of a batch: a function, a module, a bound method of one.
    :param guide: the same.
    :param data: rows [N, ...] of any type, held in memory, on the CPU or already on the device.
    :param loss: a :class:`pyro.infer.ELBO`: the negative bound, summed over the batch.
    :param validation: held-out data [N', ...]: after every epoch its mean bound on clean input is computed,
        with the modules in evaluation mode, and the weights of the best epoch are kept.
    :param validate_every: epochs from one validation to the next; the last is always validated.
    :param epochs: the epochs in all.
    :param batch_size: the rows of a mini-batch; the last of an epoch may be smaller.
    :param learning_rate: the base rate of Adam.
    :param schedule: "constant", "step", "paper", or a callable (epoch, epochs) -> factor of the base rate.
    :param clip_norm: the largest norm of the gradient, over all parameters together.
    :param transform: applied to every batch on the device, also of ``validation``: to floats, binarised, ...
    :param evaluate: a callable without arguments that returns the validation bound in nats per datum, in
        place of the default; it runs with the modules in evaluation mode and with random streams of its own.
    :param seed: determines the order of the batches and the draws of validation; nothing global is seeded.
    :param checkpoint: the file to save after every ``checkpoint_every`` epochs, at the end and when stopped.
        One that is already there is replaced at the first save, unless ``resume``. No other process may
        train into it meanwhile, nor into ``metrics``.
    :param resume: go on from ``checkpoint``, which must be of the same configuration and data.
    :param config: a JSON-able record of what was chosen, kept in the checkpoint and compared on resume.
    :param metrics: a file of one JSON line per epoch (``metrics.jsonl``).
    :param progress: None for a bar on a terminal and plain lines elsewhere, False for silence, or an object.
    :param before_epoch: callables of the epoch (from 0), called before each epoch and after a resume, when
        the schedules have moved; what they draw does not count in the random stream of training.
    :param device: where batches go; by default to the modules' first parameter, else they stay.
    :param may_change: the settings and keys of ``config`` that may differ on resume.
    :param compile: whether steps are recorded and compiled (:mod:`pyro_dvae.engine`), with noise by a hash
        of ``seed`` and the step; None for whether the run is long enough to be paid back: from 5,000 steps
        on. What cannot be compiled runs in ordinary steps, with a warning. Not with several processes.
    :param bfloat16: round the factors of the matrix products of compiled steps to bfloat16.
    :param drop_last: leave out the rows of an epoch that do not fill a batch (others in each epoch).
    :raises DivergenceError: the loss, or what a distribution is given, is NaN or infinite.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        data: Tensor,
        *,
        loss: ELBO,
        validation: Tensor | None = None,
        validate_every: int = 1,
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        schedule: str | learning_rates.Schedule | None = None,
        clip_norm: float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        evaluate: Callable[[], float] | None = None,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        metrics: str | os.PathLike[str] | None = None,
        progress: Progress | bool | None = None,
        before_epoch: Iterable[Callable[[int], object]] = (),
        device: torch.device | str | None = None,
        may_change: Iterable[str] = ("epochs",),
        compile: bool | None = None,  # noqa: A002 - torch's own word for it
        bfloat16: bool = False,
        drop_last: bool = False,
    ):
        checks.elbo("loss", loss)
        checks.pair(model, guide)
        for argument, call in (("transform", transform), ("evaluate", evaluate)):
            checks.optional(checks.program, argument, call)
        for argument, flag in (("resume", resume), ("bfloat16", bfloat16), ("drop_last", drop_last)):
            checks.flag(argument, flag)
        checks.optional(checks.flag, "compile", compile)
        if resume and checkpoint is None:
            raise InputError("resume: expected the path of the checkpoint to go on from, got checkpoint=None")
        self.model, self.guide, self.bound = model, guide, loss
        self._ranks = Ranks.present(self._last_checkpoint)
        self._share = 1 / self._ranks.count  # of the rows of the batch that is out
        self._stop_agreed = False
        self._train = data_tensor("data", data)
        held_out = None if validation is None else data_tensor("validation", validation)
        if held_out is not None and transform is None:
            same_type("validation", held_out, self._train)
        self.epochs = checks.count("epochs", epochs)
        self._validate_every = checks.count("validate_every", validate_every)
        self.batch_size = checks.count("batch_size", batch_size)
        self.learning_rate = checks.positive("learning_rate", learning_rate)
        self._schedule = learning_rates.learning_rate_schedule(schedule)
        self.clip_norm = None if clip_norm is None else checks.positive("clip_norm", clip_norm)
        self._transform = transform
        self.seed = checks.count("seed", seed, minimum=0)
        self.checkpoint = None if checkpoint is None else user_path("checkpoint", checkpoint)
        self._checkpoint_every = checks.count("checkpoint_every", checkpoint_every)
        self._metrics = None if metrics is None or not self._ranks.first else MetricsFile(metrics)
        self._progress: Progress
        if not self._ranks.first:
            self._progress = Silent()
        elif progress is None or isinstance(progress, bool):
            self._progress = progress_for(enabled=progress)
        else:
            self._progress = told("progress", progress)
        self._before_epoch = checks.programs("before_epoch", before_epoch)
        self._numerics = Numerics("hashed", bfloat16)
        self._drop_last = drop_last
        self._owner = FileOwner(
            checkpoint=self.checkpoint,
            metrics=None if metrics is None else user_path("metrics", metrics),
        )

        self.device = _device(model, guide, self._train, device)
        if self.device.type == "cuda":
            torch.cuda.init()  # so that the dry run's draws there are forked too
        whole, rest = divmod(len(self._train), self.batch_size)
        self.steps_per_epoch = whole + (rest > 0 and not drop_last)
        if not self.steps_per_epoch:
            raise InputError(f"drop_last: expected a batch_size of at most {rest}, got {self.batch_size}")
        self.history = History()
        self._finished = 0  # epochs
        self._record = EpochRecord()
        self._best: dict[str, Tensor] | None = None
        self._saved_at: tuple[int, int] | None = None
        self._random: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None
        self._interrupts = Interrupts()
        self._scales = PlateScales()
        self._validation = Validation(
            data=held_out,
            evaluate=evaluate,
            chunk=_VALIDATION_CHUNK * self.batch_size,
            loss=lambda rows: self.bound.loss(self.model, self.guide, self._prepared(rows)),
            proceed=self._go_on_validating,
            ranks=self._ranks,
        )
        self._identity = self._describe(config)

        example = self._train[: self.batch_size]
        self._parallel: ParallelBound | None = None
        self._leaves: list[Tensor] = []
        given: dict[str, Tensor] = {}

        def dry_run() -> None:
            given["data"] = checks.dense("transform", self._prepared(example))
            with InSupport("data"), self._explained(example):
                self._loss(given["data"])

        with FlopCounterMode(display=False) as operations:
            self._trained = discover(model, guide, dry_run, data=given)
        if self._trained.left_out:
            warnings.warn(left_out(self._trained), stacklevel=2)
        self._scheduled = scheduled(self._trained, loss)
        # The gradient takes twice as much again.
        self._threads = threads_for(3 * operations.get_total_flops())
        self._leaves = list(self._trained.parameters.values())
        self._clear_gradients()
        self._optimizer = adam(self._leaves, self.learning_rate)
        if self._ranks.several:
            self._parallel = self._over_ranks(example)
        self._compiled: CompiledSteps | None = None
        self._compiled_transform: CompiledTransform | None = None
        take_files(self._ranks, self._owner)
        if resume:
            self._resume(tuple(may_change))
        if self._to_be_compiled(compile):
            self._set_up_compiled()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: it owns files, an optimizer and the parameters of live models."""
        raise TypeError(
            "a Trainer is not pickled or copied: pickle model and guide, or keep the run by checkpoint="
        )

    @property
    def compile_seconds(self) -> float:
        """The time that compiling took, in seconds; it is no part of the history's."""
        return 0.0 if self._compiled is None else self._compiled.seconds

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The unconstrained parameters by name, live: what the optimizer updates in place."""
        return dict(self._trained.parameters)

    # The loop

    def __iter__(self) -> Iterator[Epoch]:
        if self._random is not None:
            random_state.restore(*self._random)
            self._random = None
        if self._finished >= self.epochs:
            self._owner.release()
            return
        take_files(self._ranks, self._owner)
        with Interrupts() as self._interrupts, self._shown(), using_threads(self._threads):
            while self._finished < self.epochs:
                self._announce(self._finished)
                self._set_learning_rate()
                self._record.start_clock()
                yield Epoch(self._finished, self)
                self._end_epoch()

    def step(self, x: Tensor) -> Tensor:
        """Take one gradient step on the batch ``x``; return its loss, detached.

        Of several processes each gives its rows; the step is that of all, the loss that of its own.
        """
        if self._compiled is not None:
            loss = self._compiled_step(self._compiled, x)
            if loss is not None:
                return loss
        self._clear_gradients()
        with calling("model, guide, data"), self._explained(x):
            loss = self._loss(x)
        ahead = loss.device.type != "cpu"
        value = self._agreed(0.0 if ahead else loss.item(), ahead)
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}", self._record.step)
        if loss.requires_grad:
            self._ranks.backward(loss)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._leaves, self.clip_norm)
        self._optimizer.step()
        detached = loss.detach()
        self._note(detached if ahead else value)
        return detached

    def _compiled_step(self, compiled: CompiledSteps, x: Tensor) -> Tensor | None:
        before = compiled.seconds
        loss = compiled(x, self._finished, self._record.fresh_position)
        self._record.leave_out(compiled.seconds - before)
        if loss is None:
            warnings.warn(f"training by ordinary steps, which are slower: {compiled.failure}", stacklevel=3)
            self._compiled = None
            return None
        if loss.device.type == "cpu":
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}", self._record.step)
            self._note(value)
        else:
            self._note(loss)
        return loss

    def _note(self, loss: Tensor | float) -> None:
        self._record.add(self._scales.per_row(loss, self._record.rows))
        if len(self._record.pending) >= _CHECK_EVERY:
            self._require_finite_losses()

    def save(self) -> None:
        """Save the checkpoint now; to be called between two steps, and by all of several processes."""
        if self.checkpoint is None:
            raise InputError("checkpoint: expected a path to save to, got None")
        self._require_finite_losses()
        self._require_finite_parameters()
        random = self._random or random_state.capture()
        tensors, state = run_state.pack(
            live=self._trained.tensors(),
            best=self._best,
            adam=adam_tensors(self._optimizer, self._trained.parameters),
            losses=self._record.losses,
            random=random,
        )
        state |= self._identity | {
            "epoch": self._finished,
            "position": self._record.position,
            "seen": self._record.seen,
            "seconds": self._record.seconds(),
            "history": self.history.to_dict(),
        }
        others, of_others = streams.pack(self._ranks, random)
        if self._ranks.first:
            with self._owner.held():
                save_checkpoint(self.checkpoint, tensors | others, state | of_others)
        self._saved_at = (self._finished, self._record.position)

    def load_best(self) -> None:
        """Copy the best epoch's parameters and buffers into the live ones; without validation do nothing."""
        if self._best is not None:
            self._trained.assign(self._best)

    def fitted(self) -> Fitted:
        """Return what has come of the training so far; parameters stay as they are."""
        store = pyro.get_param_store().get_state()
        return Fitted(self.model, self.guide, self.history, dict(self._best or {}), store, self._trained)

    # Inside an epoch

    def _batches(self, index: int) -> Iterator[Tensor]:
        if index != self._finished:
            return
        order = epoch_order(len(self._train), self.seed, index).to(self._train.device)
        record = self._record
        try:
            while record.position < self.steps_per_epoch:
                self._stop_if_requested()
                start = record.position * self.batch_size
                rows = order[start : start + self.batch_size]
                record.hand_out(len(rows))
                yield self._batch(self._train.index_select(0, self._own(rows)))
                record.take_back()
                self._progress.step(record.position)
            self._stop_if_requested()
        finally:
            record.abandon()
            self._share = 1 / self._ranks.count

    def _batch(self, rows: Tensor) -> Tensor:
        if self._compiled_transform is None:
            return self._prepared(rows)
        rows = rows.to(self.device, non_blocking=True)
        return self._compiled_transform(rows, self._finished, self._record.position)

    def _prepared(self, x: Tensor) -> Tensor:
        if x.device != self.device:
            x = x.to(self.device, non_blocking=True)
        if self._transform is None:
            return x
        with calling("transform"):
            return self._transform(x)

    def _own(self, rows: Tensor) -> Tensor:
        """Return this rank's share of the rows of a batch; without any it looks at the first, for nothing."""
        own = rows[self._ranks.share(len(rows))]
        self._share = len(own) / len(rows)
        return own if len(own) else rows[:1]

    def _loss(self, x: Tensor) -> Tensor:
        with self._scales.seeing(self._record.rows or len(x), len(x)):
            return self._loss_of(x)

    def _loss_of(self, x: Tensor) -> Tensor:
        if self._parallel is not None:
            return self._parallel.loss(x, self._share)
        if hasattr(self.bound, "differentiable_loss"):
            return self.bound.differentiable_loss(self.model, self.guide, x)
        # a bound that does its own backward
        return torch.as_tensor(self.bound.loss_and_grads(self.model, self.guide, x))

    def _clear_gradients(self) -> None:
        for leaf in self._leaves:
            leaf.grad = None

    # Compiled steps

    def _to_be_compiled(self, asked: bool | None) -> bool:
        if self._ranks.several or self.device.type not in ("cpu", "cuda"):
            return False
        return self.epochs * self.steps_per_epoch >= WORTH_IT if asked is None else asked

    def _set_up_compiled(self) -> None:
        def keys(purpose: str) -> Keys:
            return Keys(self.seed, purpose, self.steps_per_epoch, self.device)

        def worth_compiling(rows: int) -> bool:
            return rows == self.batch_size or self.epochs >= WORTH_IT

        programs = (self.model, self.guide, self.bound)
        training = Training(programs, self._loss, self._leaves, self._optimizer, self.clip_norm)
        self._compiled = CompiledSteps(
            training,
            self._numerics,
            keys("noise"),
            self._progress.note,
            worth_compiling,
        )
        if self._transform is not None:
            self._compiled_transform = CompiledTransform(
                self._transform, keys("transform"), self._progress.note, worth_compiling
            )

    # Between epochs

    def _announce(self, epoch: int) -> None:
        for part in self._scheduled:
            part.set_epoch(epoch)
        for number, callback in enumerate(self._before_epoch):
            seed = random_state.derived_seed(self.seed, epoch, "before", number)
            with random_state.forked(seed), calling("before_epoch"):
                callback(epoch)

    def _set_learning_rate(self) -> None:
        with calling("schedule"):
            factor = self._schedule(self._finished, self.epochs)
        factor = checks.number("schedule", factor, minimum=0)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    def _end_epoch(self) -> None:
        self._require_finite_losses()
        self._require_finite_parameters()
        validation_bound = None
        try:
            if due(self._finished, self.epochs, self._validate_every):
                validation_bound = self._validation.bound(self._trained, self.seed, self._finished)
        except _Interrupted:
            self._stop()
        if validation_bound is not None and math.isnan(validation_bound):
            raise self._diverged("the validation bound is nan", self._record.step)
        rate = float(self._optimizer.param_groups[0]["lr"])
        if self.history.add(self._record.bound(), validation_bound, rate, self._record.seconds()):
            self._best = {name: tensor.clone() for name, tensor in self._trained.tensors().items()}
        if self._finished == 0:
            self.history.first_losses = self._record.losses[:FIRST_LOSSES]
        self._finished += 1
        self._record = EpochRecord()
        if self.checkpoint is not None and due(self._finished - 1, self.epochs, self._checkpoint_every):
            self.save()
        if self._metrics is not None:
            self._metrics.append(self.history)
        self._progress.epoch(self.history)
        self._stop_if_requested()

    def _go_on_validating(self) -> None:
        if self._interrupts.requested and not self._ranks.several:
            raise _Interrupted

    # When something is wrong, or the user stops

    def _stop_if_requested(self) -> None:
        if self._stop_agreed if self._ranks.several else self._interrupts.requested:
            self._stop()

    def _agreed(self, loss: float, ahead: bool) -> float:
        """Return the loss over all ranks; note whether any of them is asked to stop, so that all do."""
        if not self._ranks.several or (ahead and self._record.step % _AGREE_EVERY):
            return loss
        total, requests = self._ranks.sum([loss, self._interrupts.requested])
        self._stop_agreed = requests > 0
        return total

    def _stop(self) -> NoReturn:
        if self.checkpoint is not None and self._saved_at != (self._finished, self._record.position):
            self.save()
        raise Stopped(self.checkpoint)

    def _require_finite_losses(self) -> None:
        pending = self._record.pending
        if self._ranks.several and pending:
            self._record.pending = list(self._ranks.sum_of(torch.stack(pending)))
        bad = self._record.fetch()
        if bad is not None:
            raise self._diverged(f"the loss is {bad[1]}", bad[0])

    def _require_finite_parameters(self) -> None:
        for name, leaf in self._trained.parameters.items():
            if not bool(torch.isfinite(leaf).all()):
                raise self._diverged(f"parameter {name!r} holds NaN or infinity", self._record.step)

    def _of_divergence(self, error: ValueError, x: Tensor) -> bool:
        shown = str(error).partition("found invalid values")[2]
        return (
            "nan" in shown
            or "inf" in shown
            or not all(bool(torch.isfinite(t).all()) for t in (x, *self._leaves))
        )

    @contextmanager
    def _explained(self, x: Tensor) -> Iterator[None]:
        """Turn the dump of a tensor by Pyro's or torch's own checks into one line that says where it is."""
        try:
            yield
        except ValueError as error:
            self._explain(error, x)
            raise

    def _explain(self, error: ValueError, x: Tensor) -> None:
        if "Expected more than 1 value per channel" in str(error):
            raise InputError(
                f"batch_size: a batch of {len(x)} row is too small for batch normalisation; give "
                f"drop_last=True, or another batch_size than {self.batch_size}"
            ) from error
        if isinstance(error, InputError) or "found invalid values" not in str(error):
            return
        rows = x if self._leaves else self._prepared(x)
        fault = first_fault(lambda: self.bound.loss(self.model, self.guide, rows))
        text = "a distribution was given values out of range" if fault is None else fault.text
        if self._of_divergence(error, x) or (fault is not None and not fault.finite):
            if self._leaves:  # in a step, which the other ranks take too
                self._agreed(math.nan, x.device.type != "cpu")
            raise self._diverged(text, self._record.step) from error
        raise InputError(f"model, guide, data: {text}") from error

    def _diverged(self, what: str, step: int) -> DivergenceError:
        last = self._last_checkpoint()
        rate = self._optimizer.param_groups[0]["lr"] if self._leaves else self.learning_rate
        return DivergenceError(
            f"training diverged in epoch {self._finished + 1}, step {step}: {what}{last}; try a smaller "
            f"learning_rate (now {rate:g}), a clip_norm "
            f"(now {self.clip_norm}), and check the range of the data"
        )

    def _last_checkpoint(self) -> str:
        saved = self._saved_at is not None
        return f"; last good checkpoint: {self.checkpoint}" if saved else "; no checkpoint was saved"

    def _over_ranks(self, example: Tensor) -> ParallelBound:
        from pyro_dvae.distributed.parallel import ParallelBound

        self._random = streams.starting(self._ranks, self.seed)
        with random_state.forked():
            rows = self._prepared(example)
        parallel = ParallelBound(self._ranks, self.bound, self.model, self.guide, self._trained, rows)
        self._validation = replace(self._validation, of_single_data=parallel.of_single_data)
        return parallel

    @contextmanager
    def _shown(self) -> Iterator[None]:
        self._progress.start(self.history, self.epochs, self.steps_per_epoch)
        try:
            yield
        finally:
            self._clear_gradients()
            self._record.stop_clock()
            self._progress.stop()
            self._owner.release()

    # Checkpoints

    def _describe(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        dropping = {"drop_last": True} if self._drop_last else {}  # not in checkpoints of older versions
        settings = dropping | {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "validate_every": self._validate_every,
            "learning_rate": self.learning_rate,
            "schedule": learning_rates.describe(self._schedule),
            "clip_norm": self.clip_norm,
            "seed": self.seed,
            "bfloat16": self._numerics.bfloat16,
        }
        data = {"train": self._train, "validation": self._validation.data}
        return run_state.identity(settings, config, {} if self.checkpoint is None else data)

    def _resume(self, may_change: tuple[str, ...]) -> None:
        try:
            self._go_on_from_checkpoint(may_change)
        except BaseException:
            self._owner.release()  # the error may keep this object alive
            raise

    def _go_on_from_checkpoint(self, may_change: tuple[str, ...]) -> None:
        assert self.checkpoint is not None
        where = f"checkpoint {self.checkpoint}"
        packed, state = run_state.read_training(self.checkpoint)
        run_state.require_same(state, self._identity, may_change, where)
        saved = run_state.unpack(packed, state)
        self._trained.require_same(saved.live, where)
        self._trained.assign(saved.live)
        device_of = {name: tensor.device for name, tensor in self._trained.tensors().items()}
        self._best = saved.best and {name: tensor.to(device_of[name]) for name, tensor in saved.best.items()}
        assign_adam(self._optimizer, self._trained.parameters, saved.adam)
        self.history = History(**state["history"])
        self._finished = state["epoch"]
        if self._finished + (state["position"] > 0) > self.epochs:
            done = f"{self._finished} are done" + (" and another one is begun" if state["position"] else "")
            raise InputError(f"epochs: {done} in {self.checkpoint}, expected no fewer, got {self.epochs}")
        self._record = EpochRecord(state["position"], state["seen"], saved.losses, [], state["seconds"])
        self._random = streams.unpack(self._ranks, packed, state, saved.random, self.seed)
        try:
            with random_state.forked():
                random_state.restore(*self._random)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            raise CheckpointError(f"{where}: its random states cannot be used: {error}") from None
        self._saved_at = (self._finished, self._record.position)
        self._announce(min(self._finished, self.epochs - 1))
        if self._metrics is not None:
            self._metrics.rewrite(self.history)


def fit(
    model: Callable[..., Any], guide: Callable[..., Any], data: Tensor, *, loss: ELBO, **options: Any
) -> Fitted:
    """Train to the last epoch; return what came of it, with the weights of the best epoch by validation.

    ``options`` are those of :class:`Trainer`. Without validation the weights are the last ones.
    """
    trainer = Trainer(model, guide, data, loss=loss, **options)
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
    trainer.load_best()
    return trainer.fitted()


def _device(model: Any, guide: Any, train: Tensor, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return checks.device("device", device)
    for module in modules_of(model, guide).values():
        for parameter in module.parameters():
            return parameter.device
    return train.device
