"""Training several models side by side, as one batched computation."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Adam

from pyro_dvae import checks, random_state
from pyro_dvae.calling import calling
from pyro_dvae.checkpoint import load_checkpoint, save_checkpoint
from pyro_dvae.distributed import Ranks
from pyro_dvae.distributed.ranks import take_files
from pyro_dvae.engine import Unrecordable
from pyro_dvae.engine.adam import slot, start
from pyro_dvae.engine.batched import BatchedStep, Side, lift, require_same_program
from pyro_dvae.engine.gradient import constants
from pyro_dvae.engine.honesty import Honest
from pyro_dvae.engine.step import Gradient, Numerics, record_for
from pyro_dvae.errors import CheckpointError, InputError, shown
from pyro_dvae.files import user_path
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.machine import available_cores, using_threads
from pyro_dvae.ownership import FileOwner
from pyro_dvae.training import learning_rates
from pyro_dvae.training.compiled_steps import Keys
from pyro_dvae.training.epochs import data_tensor, epoch_order, fingerprint, same_type
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History
from pyro_dvae.training.learning_rates import scheduled
from pyro_dvae.training.progress import Progress, progress_for, told
from pyro_dvae.training.stacked import Member, members_of, stack, unstack
from pyro_dvae.training.validation import Validation, due

Pair = tuple[Callable[..., Any], Callable[..., Any]]
_KIND = "training of many"
_VALIDATION_CHUNK = 4  # validation rows at a time, in batch sizes


def fit_many(
    pairs: Sequence[Pair],
    data: Tensor | Sequence[Tensor],
    *,
    loss: ELBO,
    seeds: Sequence[int] | None = None,
    learning_rate: float | Sequence[float] = 1e-3,
    validation: Tensor | Sequence[Tensor] | None = None,
    validate_every: int = 1,
    epochs: int = 100,
    batch_size: int = 100,
    schedule: str | learning_rates.Schedule | None = None,
    clip_norm: float | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    evaluate: Callable[[int], float] | None = None,
    before_epoch: Iterable[Callable[[int], object]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
    resume: bool = False,
    progress: Progress | bool | None = None,
    bfloat16: bool = False,
) -> list[Fitted]:
    """Train several pairs of model and guide side by side, and return what came of each.

    The step of the first is recorded and batched (``vmap``) over all of them, so that E small models make
    one computation large enough for the machine. Each has its own order of the data, noise and step size,
    and ends, up to rounding, where ``fit(..., seed=seed, compile=True)`` would have brought it alone. They
    must be one program: the same networks, kinds of corruption and settings; weights, seeds, learning rates,
    and what is held in parameters and buffers (so the levels of corruptions and their schedules) may differ.

    The models' modules are trained in place. Each pair has a param store of its own meanwhile; the global one
    stays as it is. A run that is stopped (Ctrl-C, SIGTERM) ends its epoch, saves and raises
    :class:`Stopped`; with ``resume=True`` it goes on from there with the same result.

    :param pairs: (model, guide), E of them, without a parameter in common.
    :param data: rows [N, ...], in memory: one set for all, or one of the same shape for each.
    :param loss: the bound of all.
    :param seeds: of the order of the batches and of the noise; 0, 1, ... by default.
    :param learning_rate: one for all, or one for each.
    :param transform: applied to the batch of each model; it must draw no noise.
    :param evaluate: function of the number of the model (from 0) that returns its validation bound, in
        nats per datum, in place of the default; called in evaluation mode after every epoch.
    :param before_epoch: callables of the epoch (from 0), called when the schedules have moved.
    :param checkpoint: the file to save after every ``checkpoint_every`` epochs, at the end and when stopped;
        no other process may train into it meanwhile.

    The other options are those of :class:`Trainer`.

    :raises InputError: the pairs are no models of one structure, or draw what cannot be batched.
    :raises CompiledStepError: the program of a pair has changed unseen; it is compared now and then.
    """
    run = ManyTraining(
        pairs,
        data,
        loss=loss,
        seeds=seeds,
        learning_rate=learning_rate,
        validation=validation,
        validate_every=validate_every,
        epochs=epochs,
        batch_size=batch_size,
        schedule=schedule,
        clip_norm=clip_norm,
        transform=transform,
        evaluate=evaluate,
        before_epoch=before_epoch,
        bfloat16=bfloat16,
    )
    path = None if checkpoint is None else user_path("checkpoint", checkpoint)
    if checks.flag("resume", resume) and path is None:
        raise InputError("resume: expected the path of the checkpoint to go on from, got checkpoint=None")
    every = checks.count("checkpoint_every", checkpoint_every)
    if progress is None or isinstance(progress, bool):
        telling = progress_for(enabled=progress)
    else:
        telling = told("progress", progress)
    owner = FileOwner(checkpoint=path)
    take_files(Ranks.present(), owner)
    try:
        if resume and path is not None:
            run.resume(path)
        run.train_all(path, every, telling)
    finally:
        owner.release()
    fitted = run.fitted()
    for each in fitted:
        each.load_best()
    return fitted


def _seed(argument: str, value: Any) -> int:
    return checks.count(argument, value, minimum=0)


def _sets(argument: str, data: Tensor | Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the data of each model, checked."""
    if isinstance(data, Tensor):
        return [data_tensor(argument, data)] * count
    if not isinstance(data, list | tuple):
        raise InputError(f"{argument}: expected a tensor [N, ...] or a list of them, got {shown(data)}")
    if len(data) != count:
        raise InputError(f"{argument}: expected one set or {count}, one for each pair, got {len(data)}")
    checked = {id(each): data_tensor(f"{argument}[{number}]", each) for number, each in enumerate(data)}
    sets = [checked[id(each)] for each in data]
    if odd := [each for each in sets if each.shape != sets[0].shape or each.dtype != sets[0].dtype]:
        raise InputError(
            f"{argument}: expected sets of one shape and type, got {tuple(sets[0].shape)} of {sets[0].dtype} "
            f"and {tuple(odd[0].shape)} of {odd[0].dtype}"
        )
    return sets


def _joined(sets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the first row [E, 1] of the data of each model, and the rows of all sets; the same set once."""
    distinct = list({id(each): each for each in sets}.values())
    place = {id(each): number * len(each) for number, each in enumerate(distinct)}
    first_row = torch.tensor([place[id(each)] for each in sets])[:, None]
    return first_row, distinct[0] if len(distinct) == 1 else torch.cat(distinct)


def _each(argument: str, value: Any, count: int, check: Callable[[str, Any], Any]) -> list[Any]:
    """Return one checked value for each model."""
    if isinstance(value, (int, float)):
        return [check(argument, value)] * count
    if not isinstance(value, list | tuple | range):
        raise InputError(f"{argument}: expected a number or a list of them, got {shown(value)}")
    values = [check(argument, one) for one in value]
    if len(values) != count:
        raise InputError(f"{argument}: expected one value or {count}, one for each pair, got {len(values)}")
    return values


class ManyTraining:
    """The state of a training of many: stacked parameters, Adam's state, buffers, histories.

    :func:`fit_many` in steps: :meth:`epoch` trains all for one epoch. The arguments are the same.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        data: Tensor | Sequence[Tensor],
        *,
        loss: ELBO,
        seeds: Sequence[int] | None = None,
        learning_rate: float | Sequence[float] = 1e-3,
        validation: Tensor | Sequence[Tensor] | None = None,
        validate_every: int = 1,
        epochs: int = 100,
        batch_size: int = 100,
        schedule: str | learning_rates.Schedule | None = None,
        clip_norm: float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        evaluate: Callable[[int], float] | None = None,
        before_epoch: Iterable[Callable[[int], object]] = (),
        bfloat16: bool = False,
    ) -> None:
        if not isinstance(pairs, list | tuple):
            raise InputError(f"pairs: expected a list of (model, guide), got {shown(pairs)}")
        checks.elbo("loss", loss)
        checks.optional(checks.program, "transform", transform)
        checks.flag("bfloat16", bfloat16)
        if not pairs:
            raise InputError("pairs: expected at least one (model, guide), got none")
        sets = _sets("data", data, len(pairs))
        self._first_row, self.train = _joined(sets)
        self.rows = len(sets[0])
        held_out: list[Tensor] | list[None] = [None] * len(pairs)
        if validation is not None:
            held_out = _sets("validation", validation, len(pairs))
            if transform is None:
                same_type("validation", held_out[0], sets[0])
        self.seeds = _each("seeds", range(len(pairs)) if seeds is None else seeds, len(pairs), _seed)
        self.rates = _each("learning_rate", learning_rate, len(pairs), checks.positive)
        self.epochs = checks.count("epochs", epochs)
        self._validate_every = checks.count("validate_every", validate_every)
        self.batch_size = batch_size = checks.count("batch_size", batch_size)
        self.schedule = learning_rates.learning_rate_schedule(schedule)
        self.clip_norm = None if clip_norm is None else checks.positive("clip_norm", clip_norm)
        self.evaluate = checks.optional(checks.program, "evaluate", evaluate)
        self.before_epoch = checks.programs("before_epoch", before_epoch)
        self.numerics = Numerics("hashed", bfloat16)
        self._transform = transform
        self.members = members_of(pairs, loss, self._prepared(sets[0][:batch_size]))
        self.count = len(self.members)
        self.device = next(iter(self.members[0].trained.parameters.values())).device
        self.steps = math.ceil(self.rows / batch_size)
        self.leaves = [stack(leaves) for leaves in self._leaves()]
        self.buffers = [stack(buffers) for buffers in self._buffers()]
        self.states = _fresh_states(self.leaves)
        self.histories = [History() for _ in self.members]
        self.best: list[dict[str, Tensor]] = [{} for _ in self.members]
        self.finished = 0
        self._honest: list[Honest] = []
        self._steps: dict[int, BatchedStep] = {}
        self._keys = [Keys(seed, "noise", self.steps, self.device) for seed in self.seeds]
        chunk = _VALIDATION_CHUNK * batch_size
        self._validations = [
            Validation(held_out[number], self._evaluation(number), chunk, self._loss_of(member), lambda: None)
            for number, member in enumerate(self.members)
        ]
        self._identity = {
            "kind": _KIND,
            "settings": {
                "models": self.count,
                "seeds": self.seeds,
                "learning_rate": self.rates,
                "batch_size": batch_size,
                "validate_every": self._validate_every,
                "schedule": learning_rates.describe(self.schedule),
                "clip_norm": self.clip_norm,
                "bfloat16": bfloat16,
            },
            "data": [fingerprint(each) for each in sets],
        }

    # Names: [parameters][models]

    def _leaves(self) -> list[list[Tensor]]:
        return [list(row) for row in zip(*(m.trained.parameters.values() for m in self.members), strict=True)]

    def _buffers(self) -> list[list[Tensor]]:
        return [list(row) for row in zip(*(m.trained.buffers().values() for m in self.members), strict=True)]

    def _prepared(self, rows: Tensor) -> Tensor:
        if self._transform is None:
            return rows
        with calling("transform"):
            made = checks.dense("transform", self._transform(rows))
        if made.requires_grad:
            raise InputError("transform: expected a result without a gradient; train networks in the guide")
        return made

    def _batches(self, rows: Tensor) -> Tensor:
        """Return the rows [E, B] of each model as data [E, B, ...]."""
        found = self.train.index_select(0, rows.reshape(-1)).to(self.device, non_blocking=True)
        each = found.unflatten(0, rows.shape)
        return each if self._transform is None else torch.stack([self._transform(own) for own in each])

    def _evaluation(self, number: int) -> Callable[[], float] | None:
        evaluate = self.evaluate
        return None if evaluate is None else lambda: evaluate(number)

    def _loss_of(self, member: Member) -> Callable[[Tensor], Tensor | float]:
        return lambda rows: member.bound.loss(member.model, member.guide, self._prepared(rows))

    # The loop

    def train_all(self, path: Path | None, every: int, progress: Progress) -> None:
        """Train to the last epoch; leave the parameters in the models."""
        # The history of the first stands for all in the progress.
        progress.start(self.histories[0], self.epochs, self.steps)
        try:
            with Interrupts() as interrupts, using_threads(min(torch.get_num_threads(), available_cores())):
                while self.finished < self.epochs:
                    self.epoch(progress)
                    stopped = interrupts.requested
                    if path is not None and (
                        stopped or self.finished % every == 0 or self.finished == self.epochs
                    ):
                        self.save(path)
                    if stopped and self.finished < self.epochs:
                        raise Stopped(path)
        finally:
            progress.stop()

    def epoch(self, progress: Progress) -> None:
        """Train every model for one epoch."""
        epoch = self.finished
        for member in self.members:
            for part in scheduled(member.trained, member.bound):
                part.set_epoch(epoch)
        for number, callback in enumerate(self.before_epoch):
            seed = random_state.derived_seed(self.seeds[0], epoch, "before", number)
            with random_state.forked(seed), calling("before_epoch"):
                callback(epoch)
        began, compiling = time.monotonic(), 0.0
        if not all(each.surroundings.unchanged() for each in self._honest):
            self._steps.clear()  # a number that the recording has built in has changed
            self._honest.clear()
        for stacked, buffers in zip(self.buffers, self._buffers(), strict=True):  # levels that were set
            stacked.copy_(stack(buffers))
        orders = torch.stack([epoch_order(self.rows, seed, epoch) for seed in self.seeds])
        orders = (orders + self._first_row).to(self.train.device)
        with calling("schedule"):
            factor = self.schedule(epoch, self.epochs)
        factor = checks.number("schedule", factor, minimum=0)
        rates = torch.tensor(self.rates, dtype=torch.float64)[:, None] * factor
        rates = rates.expand(self.count, len(self.leaves)).to(self.device)
        losses = []
        for position in range(self.steps):
            rows = orders[:, position * self.batch_size : (position + 1) * self.batch_size]
            x = self._batches(rows)
            if x.shape[1] not in self._steps:
                compiling += self._compile(x, progress)
            step = self._steps[x.shape[1]]
            keys = torch.stack([each.at(epoch, position, step.draws) for each in self._keys])
            losses.append(step(x, rates, keys))
            progress.step(position + 1)
        self._unstack()
        self._end_epoch(torch.stack(losses), float(factor), time.monotonic() - began - compiling)
        progress.epoch(self.histories[0])

    def _end_epoch(self, losses: Tensor, factor: float, seconds: float) -> None:
        """:param losses: [steps, E]."""
        bounds = (-self._per_row(losses.double()).sum(0) / self.rows).tolist()
        for number, member in enumerate(self.members):
            history = self.histories[number]
            finite = math.isfinite(bounds[number])
            if not finite and all(math.isfinite(b or 0) for b in history.train_bound):
                warnings.warn(
                    f"model {number} diverged in epoch {self.finished + 1}: its loss is not finite; "
                    f"its learning rate is {self.rates[number] * factor:g}; the others go on",
                    stacklevel=5,
                )
            validated = self._validated(number, member) if finite else None
            rate, share = self.rates[number] * factor, seconds / self.count
            if history.add(bounds[number], validated, rate, share):
                self.best[number] = {name: t.clone() for name, t in member.trained.tensors().items()}
        self.finished += 1

    def _per_row(self, losses: Tensor) -> Tensor:
        """Return the losses of the steps as sums over the rows, without the scale of a plate."""
        full, rest = divmod(self.rows, self.batch_size)
        sizes = [self.batch_size] * full + [rest] * (rest > 0)
        columns = zip(self.members, losses.unbind(1), strict=True)
        return torch.stack(
            [
                torch.stack([m.scales.per_row(loss, n) for loss, n in zip(column, sizes, strict=True)])
                for m, column in columns
            ],
            dim=1,
        )

    def _validated(self, number: int, member: Member) -> float | None:
        if not due(self.finished, self.epochs, self._validate_every):
            return None
        with member.with_store():
            return self._validations[number].bound(member.trained, self.seeds[number], self.finished)

    # Compiling

    def _compile(self, x: Tensor, progress: Progress) -> float:
        began = time.monotonic()
        progress.note(f"compiling the training step of {self.count} models, batches of {x.shape[1]} ...")
        try:
            self._steps[x.shape[1]] = self._build(x)
        except Unrecordable as error:
            raise InputError(f"pairs: these models cannot be trained side by side: {error}") from error
        took = time.monotonic() - began
        progress.note(f"compiled in {took:.1f} s")
        return took

    def _build(self, x: Tensor) -> BatchedStep:
        recorded = [self._recorded(member, x[number]) for number, member in enumerate(self.members)]
        first = recorded[0]
        self._honest += [each.honest for each in recorded]
        built_in = [list(constants(each.graph).items()) for each in recorded]
        for number, other in enumerate(recorded[1:], start=1):
            require_same_program(first.graph, other.graph, f"pairs[{number}]")
        own = {id(buffer): n for n, buffer in enumerate(self.members[0].trained.buffers().values())}
        names, lifted = [], []
        for position, (name, value) in enumerate(built_in[0]):
            values = [each[position][1] for each in built_in]
            if id(value) in own:
                names.append(name)
                lifted.append(self.buffers[own[id(value)]])
            elif not all(torch.equal(value, other) for other in values[1:]):
                names.append(name)
                lifted.append(stack(values))
        lift(first.graph, names)
        known = {id(leaf): n for n, leaf in enumerate(self.members[0].trained.parameters.values())}
        chosen = [known[id(leaf)] for leaf in first.leaves]
        optimizer = Adam(list(first.leaves), lr=1.0)
        start(optimizer)
        slots = [each for leaf in first.leaves if (each := slot(optimizer, leaf)) is not None]
        return BatchedStep(
            first,
            slots,
            [self.leaves[n] for n in chosen],
            [tensor for n in chosen for tensor in self.states[n]],
            lifted,
            x,
            torch.stack([each.at(self.finished, 0, first.draws) for each in self._keys]),
            self.clip_norm,
            [
                Side(each.honest, member.with_store)
                for each, member in zip(recorded, self.members, strict=True)
            ],
            self._unstack,
        )

    def _recorded(self, member: Member, x: Tensor) -> Gradient:
        def loss_and_grads(x: Tensor) -> Tensor:
            loss = member.loss(x)
            if loss.requires_grad:
                loss.backward()
            return loss

        leaves = list(member.trained.parameters.values())
        programs = (member.model, member.guide, member.bound)
        with member.with_store():
            return record_for(loss_and_grads, leaves, [x], self.numerics, programs)

    # To the models and back

    def _unstack(self) -> None:
        for stacked, leaves in zip(self.leaves, self._leaves(), strict=True):
            unstack(stacked, leaves)
        for stacked, buffers in zip(self.buffers, self._buffers(), strict=True):
            unstack(stacked, buffers)

    def fitted(self) -> list[Fitted]:
        """Return what came of each."""
        return [
            Fitted(m.model, m.guide, history, best, m.store, m.trained)
            for m, history, best in zip(self.members, self.histories, self.best, strict=True)
        ]

    # Checkpoints

    def _named(self) -> dict[str, Tensor]:
        named = {f"leaf{n}": leaf for n, leaf in enumerate(self.leaves)}
        named |= {f"buffer{n}": buffer for n, buffer in enumerate(self.buffers)}
        return named | {
            f"state{n}/{m}": t for n, state in enumerate(self.states) for m, t in enumerate(state)
        }

    def save(self, path: Path) -> None:
        """Save the state between two epochs."""
        best = {
            f"best{number}/{name}": tensor
            for number, tensors in enumerate(self.best)
            for name, tensor in tensors.items()
        }
        histories = [history.to_dict() for history in self.histories]
        state = self._identity | {"epoch": self.finished, "histories": histories}
        save_checkpoint(path, self._named() | best, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same models, settings and data."""
        tensors, state = load_checkpoint(path)
        for key, now in self._identity.items():
            if state.get(key) != now:
                raise CheckpointError(f"checkpoint {path}: {key} was {state.get(key)!r}, is now {now!r}")
        for name, tensor in self._named().items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise CheckpointError(f"checkpoint {path}: of models of another structure ({name})")
            tensor.copy_(tensors[name])
        for number, member in enumerate(self.members):
            prefix = f"best{number}/"
            live = member.trained.tensors()
            self.best[number] = {
                name.removeprefix(prefix): tensor.to(live[name.removeprefix(prefix)].device)
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
        self.histories = [History(**history) for history in state["histories"]]
        self.finished = state["epoch"]
        self._unstack()


def _fresh_states(leaves: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return Adam's step count [E], mean and mean square [E, ...] for each parameter."""
    return [
        (torch.zeros(len(leaf), device=leaf.device), torch.zeros_like(leaf), torch.zeros_like(leaf))
        for leaf in leaves
    ]
