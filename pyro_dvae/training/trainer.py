"""Training of any Pyro model and guide with any bound: exact resume, best epoch, callbacks.

::

    trainer = Trainer(model, guide, train, loss=TraceDenoising_ELBO(), validation=held_out)
    for epoch in trainer:
        for batch in epoch:
            trainer.step(batch)
    trainer.load_best()

:func:`~pyro_dvae.training.fit` is that loop. A run can be stopped, for example by Ctrl-C in the middle of an
epoch, and resumed with ``resume=True``. On the same machine it then ends with bit-for-bit the same
weights as an uninterrupted run, if all state is in parameters, buffers, callbacks and global random
states. Its random stream depends only on the seed and on the global random states at the start.

With ``torch.distributed`` initialised, every process of the group makes the same trainer and runs the same
loop. Each process takes its share of the rows of every batch, with its own noise (:mod:`.distributed.ranks`);
together they take the training step of the whole batch. Rank 0 writes the files and shows progress.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dvae import checks, random_state
from pyro_dvae.distributed import Ranks
from pyro_dvae.machine import using_threads
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import LoaderBatches
from pyro_dvae.training import run_state
from pyro_dvae.training.batches import Epoch, FromLoader, batches_of, device_for
from pyro_dvae.training.callbacks.base import Callback, RunCallbacks, Running
from pyro_dvae.training.compiled_steps import WORTH_IT
from pyro_dvae.training.dry_run import dry_run
from pyro_dvae.training.epochs import same_type
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History
from pyro_dvae.training.learning_rates import scheduled
from pyro_dvae.training.objective import CHUNK, Loss, PlateScales, Validation, loss_of
from pyro_dvae.training.optimizer import Choice
from pyro_dvae.training.progress import NoProgress, Progress
from pyro_dvae.training.resuming import RunFiles
from pyro_dvae.training.run import Run
from pyro_dvae.training.settings import Settings, opened_rows, options_of, seed_of, with_constants
from pyro_dvae.training.steps import Steps, over_ranks
from pyro_dvae.training.stopping import Faults, Requests, ValidationStopped


class Trainer:
    """Trains ``model`` and ``guide`` by gradient steps on ``loss``, with mini-batches of ``data``.

    It trains the same parameters as Pyro's ``SVI``: those of param statements (``pyro.param``,
    ``pyro.module``, a ``PyroModule``), but refuses those that only a later step makes. A warning names other
    parameters of the modules. Each epoch first sets all schedules (of corruptions, priors, guides and bound).

    Bounds in the history are in nats per observation, without the scale N / B of
    ``plate("data", N, subsample=x)``. If all rows share latents, it is the bound of all N rows divided by N;
    without a data plate, it is minus the loss of a batch divided by its number of rows.

    :param model: any Pyro callable of a batch: a function, a module, or a method of a module.
    :param guide: the same.
    :param data: rows [N, ...] from any source (:mod:`pyro_dvae.rows`): a tensor, on the CPU or already on the
        device; a numpy array, also on disk; a sparse matrix; a DataFrame; a torch Dataset. Or a DataLoader or
        another iterable of batches, which keeps its own order and sizes.
    :param args: further data arguments of model and guide, N rows each, cut like ``data``.
    :param kwargs: further arguments of model, guide and loss, passed whole to every call.
    :param loss: a :class:`pyro.infer.ELBO`: the negative bound, summed over the batch (nats).
    :param validation: held-out rows [N', ...], or a tuple for several data arguments. After every epoch,
        their mean bound on clean input is computed in evaluation mode, and the weights of the best epoch are
        kept.
    :param validate_every: epochs between validations; the last epoch is always validated.
    :param epochs: number of epochs.
    :param batch_size: rows of a mini-batch; the last of an epoch may be smaller.
    :param optimizer: a class of ``torch.optim`` (by default Adam), a ``partial`` of one, a function of
        parameter groups that returns an optimizer, or an optimizer of Pyro.
    :param learning_rate: base learning rate; a function, a Pyro optimizer and a ``partial`` with ``lr`` have
        their own.
    :param parameter_options: options by pattern of parameter names: ``{"decoder*": {"lr": 1e-4}}``.
    :param schedule: "constant", "step", "paper", a callable (epoch, epochs) -> factor of the base rates, or a
        class, a ``partial`` or a function of the optimizer from ``torch.optim.lr_scheduler``. It advances
        after every epoch; ``ReduceLROnPlateau`` follows the validation bound.
    :param clip_norm: largest norm of the gradient, over all parameters together.
    :param accumulate: batches per step of the optimizer, whose gradient is that of one large batch. The last
        step of an epoch may have fewer.
    :param freeze: what is not trained: names of parameters (with ``*``), modules or tensors, one or a list.
    :param ema: decay d of averages of the weights, e ← d·e + (1 − d)·θ after every step of the optimizer. The
        averages are validated, kept as the best and returned; training continues with the weights themselves.
    :param transform: applied on the device to the first argument of every batch, also of ``validation``, for
        example to convert to floats or to binarise.
    :param evaluate: callable without arguments that returns the validation bound in nats per observation, in
        place of the default. It runs in evaluation mode and with separate random streams.
    :param seed: seed of the order of the batches and the draws of validation; nothing global is seeded.
    :param checkpoint: the file to save after every ``checkpoint_every`` epochs, at the end and when stopped.
        Without ``resume``, the first save replaces an existing file. No other process may use it, or
        ``metrics``, at the same time.
    :param resume: continue from ``checkpoint``, which must have the same configuration and data.
    :param config: JSON-able record of your choices, kept in the checkpoint and compared on resume.
    :param metrics: file with one JSON line per epoch (``metrics.jsonl``).
    :param progress: None for a bar on a terminal and plain lines elsewhere, False for silence, or an object.
    :param callbacks: :class:`Callback` objects, and functions of the :class:`Running` run that are called
        after every epoch; they draw from separate random streams.
    :param device: device of the batches; by default that of the modules' first parameter, if there is one.
    :param may_change: the settings and keys of ``config`` that may differ on resume and then have new values.
    :param compile: whether to record and compile steps (:mod:`pyro_dvae.engine`), with noise by a hash of
        ``seed`` and the step; None compiles runs of 5,000 steps or more, or with ``bfloat16``. Steps that
        cannot be compiled run uncompiled, with a warning.
    :param bfloat16: round the factors of the matrix products of compiled steps to bfloat16.
    :param drop_last: leave out the rows of an epoch that do not fill a batch (different ones in each epoch).
    :raises DivergenceError: the loss, or a parameter of a distribution, is NaN or infinite.
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
        optimizer: Choice = None,
        parameter_options: Mapping[str, Mapping[str, Any]] | None = None,
        schedule: Any = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        freeze: Any = None,
        ema: float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        evaluate: Callable[[], float] | None = None,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        metrics: str | os.PathLike[str] | None = None,
        progress: Progress | bool | None = None,
        callbacks: Iterable[Callback | Callable[[Running], object]] = (),
        device: torch.device | str | None = None,
        may_change: Iterable[str] = ("epochs",),
        compile: bool | None = None,  # noqa: A002 - torch's own word for it
        bfloat16: bool = False,
        drop_last: bool = False,
        **kwargs: Any,
    ):
        checks.pair(model, guide)
        settings = self._settings = Settings.of(locals())
        checks.flag("drop_last", drop_last)
        self.model, self.guide, self.bound, self._constants = model, guide, loss, kwargs
        self.epochs, self.batch_size = settings.epochs, settings.batch_size
        self.clip_norm, self.checkpoint = settings.clip_norm, settings.checkpoint
        self.learning_rate = checks.positive("learning_rate", learning_rate)
        self.seed = seed_of("seed", seed)
        model, guide = with_constants(kwargs, model, guide, options_of(Trainer))
        train, held_out = opened_rows((data, *args), validation, float_type(model, guide))
        at = torch.device("cpu") if isinstance(train, LoaderBatches) else train.device
        names = [] if isinstance(train, LoaderBatches) else [*train.columns]
        self._about = {"columns": names} if names else {}
        self.device = device_for(model, guide, at, device)

        run = self._run = Run(self.checkpoint, self.learning_rate)
        ranks = Ranks.present(run.last_checkpoint)
        self._progress: Progress = settings.progress if ranks.first else NoProgress()
        self._batches = batches_of(train, settings, self.seed, self.device, drop_last, ranks)
        self.steps_per_epoch = self._batches.length
        example = self._batches.example()
        if held_out is not None and transform is None:
            same_type("validation", held_out.take(slice(0, 1)), example)

        def negative_bound(*batch: Tensor) -> Tensor | float:
            return loss.loss(model, guide, *batch)

        known = train.rows if isinstance(train, LoaderBatches) else len(train)
        objective = Loss(loss_of(model, guide, loss), PlateScales(known))
        self._requests = Requests(ranks)
        self._faults = Faults(run, settings, negative_bound, ranks, self._requests)
        rows = {"data": train, "validation": held_out}
        dry = dry_run(model, guide, objective, self._batches, self._faults, rows)
        trained, self._row, self._threads = dry
        run.train(trained, settings)
        validates = held_out is not None or evaluate is not None
        run.update.require_validation(validates)
        running = Running(self.epochs, validates, lambda: run.history, self.fitted)
        self._calls = RunCallbacks(settings.callbacks, running, self.seed, ranks, trained.parameters)
        choices = run.described(settings) | {"seed": self.seed, "drop_last": drop_last}
        kept = {"train": train, "validation": held_out} if self.checkpoint is not None else {}
        identity = run_state.identity(choices, config, kept)
        place = self._batches.stream.place if isinstance(self._batches, FromLoader) else lambda: None
        watched = (self._faults, ranks, self._requests, self._calls)
        self._files = RunFiles(run, metrics, identity, *watched, place)
        self._scheduled = scheduled(trained, loss)
        shared = None
        if ranks.several:
            objective, shared = over_ranks(objective, example, self._batches, run, ranks)
        self._validation = Validation(
            data=held_out,
            evaluate=evaluate,
            chunk=CHUNK * self.batch_size,
            loss=lambda *rows: negative_bound(*self._batches.prepared(*rows)),
            proceed=self._requests.go_on_validating,
            ranks=ranks,
            of_single_data=shared is None or shared.of_single_data,
        )
        self._steps = Steps(run, settings, objective, shared, *watched)
        self._files.take()
        if resume:
            with self._files.released_on_error():
                self._files.restore(self.epochs, self.seed, settings.may_change)
                if isinstance(self._batches, FromLoader):
                    self._batches.go_on(run)
                self._move_schedules(min(run.finished, self.epochs - 1))
                self._files.rewrite_metrics()
        # If a loader does not know the length of an epoch, compile only on request.
        long = self.epochs * (self.steps_per_epoch or 0) >= WORTH_IT
        possible = self.device.type in ("cpu", "cuda")
        if possible and (long or bfloat16 if compile is None else compile):
            self._steps.compile(self._batches, (model, guide, loss), self._progress.note)

    def __reduce__(self) -> NoReturn:
        """Refuse pickling and copying: a trainer owns files, an optimizer and live parameters."""
        raise TypeError(
            "a Trainer cannot be pickled or copied; pickle model and guide, or save the run with checkpoint="
        )

    @property
    def history(self) -> History:
        """The finished epochs."""
        return self._run.history

    @property
    def compile_seconds(self) -> float:
        """The time of compilation in seconds, which the history does not include."""
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
            self._calls.at("start")
            # A run that was saved within an epoch finishes it, also if it was asked to stop.
            while run.finished < self.epochs and (run.record.position or not self._calls.stopping()):
                run.trained.refuse_unfrozen()
                self._move_schedules(run.finished)
                run.update.begin_epoch(self._settings.rate_factor(run.finished))
                run.record.start_clock()
                yield Epoch(run, self._batches, self._files, self._progress)
                self._end_epoch()
            if run.finished < self.epochs:
                self._progress.note(f"stopped after epoch {run.finished}: {self._calls.run.reason}")

    def step(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Take one training step on a batch of the epoch; return its loss, detached (nats).

        With several processes, each gives its rows. The step uses all rows; the loss is that of its own.
        """
        return self._steps.take(*(batch if isinstance(batch, tuple) else (batch,)))

    def save(self) -> None:
        """Save the checkpoint now. Call it between two steps, in every process if there are several."""
        self._files.save()

    def load_best(self) -> None:
        """Copy the best epoch's parameters and buffers into the live ones; without validation do nothing."""
        self._run.load_best()

    def fitted(self) -> Fitted:
        """Return the current result of training; parameters do not change."""
        run, store = self._run, pyro.get_param_store().get_state()
        kept = (dict(run.best or {}), store, run.trained, self._row, self._constants, self._about)
        return Fitted(self.model, self.guide, run.history, *kept)

    def _move_schedules(self, epoch: int) -> None:
        for part in self._scheduled:
            part.set_epoch(epoch)

    def _end_epoch(self) -> None:
        run, settings = self._run, self._settings
        run.update.flush()
        self._faults.require_finite_losses()
        self._faults.require_finite_parameters()
        validation_bound = None
        try:
            if self._calls.stopping() or settings.validation_is_due(run.finished):
                with run.update.averaged():
                    validation_bound = self._validation.bound(run.trained, self.seed, run.finished)
        except ValidationStopped:
            self._files.stop()
        if validation_bound is not None and math.isnan(validation_bound):
            raise self._faults.diverged("the validation bound is nan")
        run.end_epoch(validation_bound)
        self._calls.at("epoch")
        if settings.checkpoint_is_due(run.finished - 1) or (self.checkpoint and self._calls.stopping()):
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
            self._calls.at("end")
