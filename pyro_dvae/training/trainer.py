"""Training any Pyro model and guide by any bound: one fused Adam, exact resume, the best epoch kept.

::

    trainer = Trainer(model, guide, TraceDenoising_ELBO(), train, validation=held_out)
    for epoch in trainer:
        for batch in epoch:
            trainer.step(batch)
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
from typing import Any, NoReturn

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pyro_dvae import checks, random_state
from pyro_dvae.distributed import Ranks
from pyro_dvae.machine import threads_for, using_threads
from pyro_dvae.programs.parameters import discover, float_type
from pyro_dvae.rows import Data, Stream
from pyro_dvae.training import run_state
from pyro_dvae.training.batches import Epoch, FromLoader, batches_of, device_for, keeps_its_place
from pyro_dvae.training.compiled_steps import WORTH_IT
from pyro_dvae.training.diagnosis import InSupport
from pyro_dvae.training.epochs import same_type
from pyro_dvae.training.faults import Faults
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.given import opened_rows, options_of, with_constants
from pyro_dvae.training.history import History
from pyro_dvae.training.learning_rates import Schedule, left_out, scheduled
from pyro_dvae.training.objective import Loss, loss_of
from pyro_dvae.training.progress import Progress, Silent
from pyro_dvae.training.resuming import RunFiles
from pyro_dvae.training.run import Run
from pyro_dvae.training.settings import Settings, seed_of
from pyro_dvae.training.steps import Steps, over_ranks
from pyro_dvae.training.stopping import Requests, ValidationStopped
from pyro_dvae.training.validation import CHUNK, Validation


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
    :param data: rows [N, ...] from any source (:mod:`pyro_dvae.rows`): a tensor, on the CPU or already on the
        device; a numpy array, also on disk; a sparse matrix; a DataFrame; a torch Dataset. Or a DataLoader or
        another iterable of batches, which keeps its own order and sizes.
    :param args: further data arguments of model and guide, N rows each, cut like ``data``.
    :param kwargs: further arguments of model, guide and loss, passed whole to every call.
    :param loss: a :class:`pyro.infer.ELBO`: the negative bound, summed over the batch.
    :param validation: held-out rows [N', ...], a tuple where there are several data arguments: after every
        epoch their mean bound on clean input is computed, with the modules in evaluation mode, and the
        weights of the best epoch are kept.
    :param validate_every: epochs from one validation to the next; the last is always validated.
    :param epochs: the epochs in all.
    :param batch_size: the rows of a mini-batch; the last of an epoch may be smaller.
    :param learning_rate: the base rate of Adam.
    :param schedule: "constant", "step", "paper", or a callable (epoch, epochs) -> factor of the base rate.
    :param clip_norm: the largest norm of the gradient, over all parameters together.
    :param transform: applied to the first argument of every batch on the device, also of ``validation``: to
        floats, binarised, ...
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
        data: Any,
        *args: Any,
        loss: ELBO,
        validation: Any = None,
        validate_every: int = 1,
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        schedule: str | Schedule | None = None,
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
        **kwargs: Any,
    ):
        checks.pair(model, guide)
        settings = self._settings = Settings(
            loss=loss,
            epochs=epochs,
            batch_size=batch_size,
            validate_every=validate_every,
            schedule=schedule,
            clip_norm=clip_norm,
            transform=transform,
            evaluate=evaluate,
            before_epoch=before_epoch,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            progress=progress,
            bfloat16=bfloat16,
        )
        checks.flag("drop_last", drop_last)
        checks.optional(checks.flag, "compile", compile)
        self.model, self.guide, self.bound, self._constants = model, guide, loss, kwargs
        self.epochs, self.batch_size = settings.epochs, settings.batch_size
        self.clip_norm, self.checkpoint = settings.clip_norm, settings.checkpoint
        self.learning_rate = checks.positive("learning_rate", learning_rate)
        self.seed = seed_of("seed", seed)
        model, guide = with_constants(kwargs, model, guide, options_of(Trainer))
        train, held_out = opened_rows((data, *args), validation, float_type(model, guide))
        at = torch.device("cpu") if isinstance(train, Stream) else train.device
        self.device = device_for(model, guide, at, device)

        run = self._run = Run(self.checkpoint, self.learning_rate)
        ranks = Ranks.present(run.last_checkpoint)
        self._progress: Progress = settings.progress if ranks.first else Silent()
        self._batches = batches_of(train, settings, self.seed, self.device, drop_last, ranks)
        self.steps_per_epoch = self._batches.length
        example = self._batches.example()
        if held_out is not None and transform is None:
            same_type("validation", held_out.take(slice(0, 1)), example)

        def negative_bound(*batch: Tensor) -> Tensor | float:
            return loss.loss(model, guide, *batch)

        objective = Loss(loss_of(model, guide, loss))
        self._requests = Requests(ranks)
        self._faults = Faults(run, settings, negative_bound, ranks, self._requests)
        choices = {"epochs": self.epochs} | settings.described(self.learning_rate) | {"seed": self.seed}
        choices |= {"drop_last": True} if drop_last else {}  # not in checkpoints of older versions
        rows: dict[str, Data | None] = {}
        if self.checkpoint is not None:
            rows = {"train": train} if isinstance(train, Data) else {}
            rows["validation"] = held_out
        identity = run_state.identity(choices, config, rows)
        place = self._batches.stream.place if keeps_its_place(self._batches) else lambda: None
        self._files = RunFiles(run, metrics, identity, self._faults, ranks, self._requests, place)

        given: dict[str, Tensor] = {}

        def dry_run() -> None:
            batch = self._batches.prepared(*example)
            self._row = tuple(part[:1].detach().cpu() for part in batch)
            given["data"] = checks.dense("transform", batch[0])
            with InSupport("data"), self._faults.explained(*batch):
                objective(*batch)

        with FlopCounterMode(display=False) as operations:
            trained = discover(model, guide, dry_run, data=given)
        if trained.left_out:
            warnings.warn(left_out(trained), stacklevel=2)
        run.train(trained)
        self._scheduled = scheduled(trained, loss)
        # The gradient takes twice as much again.
        self._threads = threads_for(3 * operations.get_total_flops())
        of_single_data = True
        if ranks.several:
            programs = (model, guide, loss)
            objective, of_single_data = over_ranks(objective, programs, example, self._batches, run, ranks)
        self._validation = Validation(
            data=held_out,
            evaluate=evaluate,
            chunk=CHUNK * self.batch_size,
            loss=lambda *rows: negative_bound(*self._batches.prepared(*rows)),
            proceed=self._requests.go_on_validating,
            ranks=ranks,
            of_single_data=of_single_data,
        )
        self._steps = Steps(run, settings, objective, self._faults, ranks, self._requests)
        self._files.take()
        if resume:
            with self._files.released_on_error():
                self._files.restore(self.epochs, self.seed, tuple(may_change))
                if isinstance(self._batches, FromLoader):
                    self._batches.go_on(run)
                self._announce(min(run.finished, self.epochs - 1))
                self._files.rewrite_metrics()
        # A loader that does not say how long an epoch is may be short: then compiling is to be asked for.
        long = self.epochs * (self.steps_per_epoch or 0) >= WORTH_IT
        possible = not ranks.several and self.device.type in ("cpu", "cuda")
        if possible and (long if compile is None else compile):
            self._steps.compile(self._batches, (model, guide, loss), self._progress.note)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: it owns files, an optimizer and the parameters of live models."""
        raise TypeError(
            "a Trainer is not pickled or copied: pickle model and guide, or keep the run by checkpoint="
        )

    @property
    def history(self) -> History:
        """The finished epochs."""
        return self._run.history

    @property
    def compile_seconds(self) -> float:
        """The time that compiling took, in seconds; it is no part of the history's."""
        return self._steps.compile_seconds

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The unconstrained parameters by name, live: what the optimizer updates in place."""
        return dict(self._run.trained.parameters)

    def __iter__(self) -> Iterator[Epoch]:
        run = self._run
        if run.random is not None:
            random_state.restore(*run.random)
            run.random = None
        if run.finished >= self.epochs:
            self._files.release()
            return
        self._files.take()
        with self._requests.watched(), self._shown(), using_threads(self._threads):
            while run.finished < self.epochs:
                self._announce(run.finished)
                run.set_rate(self._settings.rate_factor(run.finished))
                run.record.start_clock()
                yield Epoch(run, self._batches, self._files, self._progress)
                self._end_epoch()

    def step(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Take one gradient step on a batch as the epoch gives it; return its loss, detached.

        Of several processes each gives its rows; the step is that of all, the loss that of its own.
        """
        return self._steps.take(*(batch if isinstance(batch, tuple) else (batch,)))

    def save(self) -> None:
        """Save the checkpoint now; to be called between two steps, and by all of several processes."""
        self._files.save()

    def load_best(self) -> None:
        """Copy the best epoch's parameters and buffers into the live ones; without validation do nothing."""
        self._run.load_best()

    def fitted(self) -> Fitted:
        """Return what has come of the training so far; parameters stay as they are."""
        run, store = self._run, pyro.get_param_store().get_state()
        best = dict(run.best or {})
        return Fitted(
            self.model, self.guide, run.history, best, store, run.trained, self._row, self._constants
        )

    def _announce(self, epoch: int) -> None:
        self._settings.announce(epoch, self._scheduled, self.seed)

    def _end_epoch(self) -> None:
        run, settings = self._run, self._settings
        self._faults.require_finite_losses()
        self._faults.require_finite_parameters()
        validation_bound = None
        try:
            if settings.validation_is_due(run.finished):
                validation_bound = self._validation.bound(run.trained, self.seed, run.finished)
        except ValidationStopped:
            self._files.stop()
        if validation_bound is not None and math.isnan(validation_bound):
            raise self._faults.diverged("the validation bound is nan")
        run.end_epoch(validation_bound)
        if settings.checkpoint_is_due(run.finished - 1):
            self._files.save()
        self._files.append_metrics()
        self._progress.epoch(run.history)
        self._files.stop_if_requested()

    @contextmanager
    def _shown(self) -> Iterator[None]:
        self._progress.start(self._run.history, self.epochs, self.steps_per_epoch or 0)
        try:
            yield
        finally:
            self._run.clear_gradients()
            self._run.record.stop_clock()
            self._progress.stop()
            self._files.release()


def fit(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *args: Any, loss: ELBO, **options: Any
) -> Fitted:
    """Train to the last epoch; return what came of it, with the weights of the best epoch by validation.

    ``args`` and ``options`` are those of :class:`Trainer`. Without validation the weights are the last ones.
    """
    trainer = Trainer(model, guide, data, *args, loss=loss, **options)
    for epoch in trainer:
        for batch in epoch:
            trainer.step(batch)
    trainer.load_best()
    return trainer.fitted()
