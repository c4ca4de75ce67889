"""The arguments, rows, optimizers and callbacks of each of several models trained together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from pyro_dvae.distributed import Ranks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.rows import InMemory, Source, source_of
from pyro_dvae.training.callbacks.base import Callback, RunCallbacks, Running
from pyro_dvae.training.epochs import epoch_order
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.many_state import ManyState
from pyro_dvae.training.settings import Settings
from pyro_dvae.training.stacked import Member
from pyro_dvae.training.update import Update


def each_of(argument: str, value: Any, count: int, check: Callable[[str, Any], Any]) -> list[Any]:
    """Return a checked value for each model."""
    if isinstance(value, (int, float)):
        return [check(argument, value)] * count
    if not isinstance(value, list | tuple | range):
        raise InputError(f"{argument}: expected a number or a list of them, got {shown(value)}")
    values = [check(argument, one) for one in value]
    if len(values) != count:
        raise InputError(f"{argument}: expected one value or {count}, one for each pair, got {len(values)}")
    return values


def sets_of(argument: str, data: Any, count: int, floats: torch.dtype) -> list[Source]:
    """Return the checked rows of each model, from one set for all or a list of one for each."""
    if not isinstance(data, list | tuple):
        return [source_of(argument, data, floats)] * count
    if len(data) != count:
        raise InputError(f"{argument}: expected one set or {count}, one for each pair, got {len(data)}")
    checked = {id(each): source_of(f"{argument}[{number}]", each, floats) for number, each in enumerate(data)}
    sets = [checked[id(each)] for each in data]
    first, *others = (_kind(each) for each in sets)
    if odd := [each for each in others if each != first]:
        raise InputError(
            f"{argument}: expected sets of one shape and type, got {first[0]} of {first[1]} and {odd[0][0]} "
            f"of {odd[0][1]}"
        )
    return sets


def _kind(source: Source) -> tuple[Any, ...]:
    row = source.take(slice(0, 1))
    shape = (len(source), *row[0].shape[1:])
    return shape, row[0].dtype, [(part.shape, part.dtype) for part in row]


def updates_of(members: Sequence[Member], settings: Settings, rates: Sequence[float]) -> list[Update]:
    """Return the optimizer of each model, or refuse one that is not plain Adam or AdamW."""
    updates = [Update(each.trained.free, settings, rate) for each, rate in zip(members, rates, strict=True)]
    if updates[0].slots() is None:
        kind = type(updates[0].optimizer)
        got = "such a variant" if kind in (Adam, AdamW) else kind.__name__
        raise InputError(
            "optimizer: fit_many steps by plain Adam or AdamW, without amsgrad, maximize or a tensor as "
            f"learning rate, got {got}; use fit for it"
        )
    return updates


class RowsOfMany:
    """The rows of each model in its own order, and their batches.

    :param arguments: for each data argument the rows of each model; equal sets are stored once.
    :param device: the device of the batches.
    """

    def __init__(
        self,
        arguments: Sequence[Sequence[Source]],
        seeds: Sequence[int],
        settings: Settings,
        device: torch.device,
    ) -> None:
        self._joined = [_joined(sets) for sets in arguments]
        self._seeds, self._settings, self._device = seeds, settings, device
        self.rows = len(arguments[0][0])
        self.steps_per_epoch = math.ceil(self.rows / settings.batch_size)

    def sizes(self) -> list[int]:
        """Return the number of rows of each batch of an epoch."""
        full, rest = divmod(self.rows, self._settings.batch_size)
        return [self._settings.batch_size] * full + [rest] * (rest > 0)

    def orders(self, epoch: int) -> Tensor:
        """Return the row indices [E, N] in each model's order of an epoch (from 0), on the data's device.

        Copying them for each batch would make the host wait for the device at every step.
        """
        _, source = self._joined[0]
        size = self._settings.batch_size
        return torch.stack([epoch_order(self.rows, size, seed, epoch) for seed in self._seeds]).to(
            source.device
        )

    def batch(self, orders: Tensor, position: int) -> list[Tensor]:
        """Return a batch of each model, [E, B, ...] for each data argument, the first one transformed."""
        size, transform = self._settings.batch_size, self._settings.transform
        rows = orders[:, position * size : (position + 1) * size]
        parts = [part for joined in self._joined for part in self._taken(joined, rows)]
        if transform is not None:
            parts[0] = torch.stack([transform(own) for own in parts[0]])
        return parts

    def _taken(self, joined: tuple[Tensor, Source], rows: Tensor) -> list[Tensor]:
        first_row, source = joined
        flat = (rows.to(source.device) + first_row).reshape(-1)
        found = source.take(flat)
        return [part.to(self._device, non_blocking=True).unflatten(0, rows.shape) for part in found]


def _joined(sets: Sequence[Source]) -> tuple[Tensor, Source]:
    """Return the first row [E, 1] of each model's data, and the rows of all distinct sets."""
    distinct = list({id(each): each for each in sets}.values())
    place = {id(each): number * len(each) for number, each in enumerate(distinct)}
    first_row = torch.tensor([place[id(each)] for each in sets])[:, None]
    if len(distinct) == 1:
        return first_row.to(distinct[0].device), distinct[0]
    whole = [each.take(slice(0, len(each))) for each in distinct]
    joined = InMemory(*(torch.cat(parts) for parts in zip(*whole, strict=True)))
    return first_row.to(joined.device), joined


def _copies(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return copies of callbacks for one of the models."""
    found: list[Callback] = []
    shared: dict[int, Any] = {}  # objects that several callbacks share are copied once
    for number, each in enumerate(callbacks):
        try:
            found.append(copy.deepcopy(each, shared))
        except (TypeError, AttributeError, RuntimeError) as error:  # a lock, an open file, a live tensor
            raise InputError(
                f"callbacks[{number}]: expected one that can be copied for every model, got {shown(each)} "
                f"({error}); give a function instead, or define __deepcopy__"
            ) from error
    return found


def _loss_of(member: Member, losses: Tensor, number: int, rows: int) -> Tensor:
    """Return the loss of a model, summed over the rows of its batch, when a callback asks for it."""
    found: Tensor = member.loss.per_row(losses[number], rows)
    return found


class ManyRunCallbacks:
    """Calls the callbacks of every model that has not stopped, and stops models on request.

    Before a hook, the models have the current parameters; changes of these by the hook are kept.

    :param fitted: returns the results of all models.
    :param validates: whether the models have a validation bound.
    """

    def __init__(
        self,
        state: ManyState,
        settings: Settings,
        seeds: Sequence[int],
        validates: bool,
        fitted: Callable[[], list[Fitted]],
    ) -> None:
        self._state, self._settings = state, settings

        def running(number: int) -> Running:
            def history() -> Any:
                return state.histories[number]

            return Running(settings.epochs, validates, history, lambda: fitted()[number], number)

        self._calls = [
            RunCallbacks(_copies(settings.callbacks), running(number), seed, Ranks())
            for number, seed in enumerate(seeds)
        ]

    def at(self, hook: str) -> None:
        """Call a hook; requests to stop take effect at the start and at the end of an epoch."""
        if not self._settings.callbacks:
            return
        state, called = self._state, self._calls[0].has(hook)  # all models have the same callbacks
        if called and hook == "step":  # at other times the models are up to date
            state.to_models()
        for number, (calls, member) in enumerate(zip(self._calls, state.members, strict=True)):
            if state.stopped[number] and hook != "end":
                continue
            with member.with_store():
                calls.at(hook)
            if hook in ("start", "epoch", "checkpoint") and calls.stopping():
                state.stopped[number] = True
                self._settings.progress.note(
                    f"model {number} stopped after epoch {state.finished}: {calls.run.reason}"
                )
        if called and hook in ("start", "step", "epoch"):
            state.take_leaves()

    def stopping(self, number: int) -> bool:
        """Whether a callback has asked a model to stop."""
        return self._calls[number].stopping()

    def note_step(self, losses: Tensor, rows: int) -> bool:
        """Record a step of all models on batches of ``rows`` rows; call the hook of steps if there is one.

        :param losses: [E].
        :return: whether a hook was called.
        """
        watched = self._calls[0].has("step")
        for number, (calls, member) in enumerate(zip(self._calls, self._state.members, strict=True)):
            if not self._state.stopped[number]:
                calls.run.note(partial(_loss_of, member, losses, number, rows), rows)
        if watched:
            self.at("step")
        return watched

    def state_dict(self) -> list[dict[str, Any]]:
        return [calls.state_dict() for calls in self._calls]

    def load_state_dict(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Restore what :meth:`state_dict` returned, and which models have stopped.

        A model that stopped before the others has missed epochs and cannot continue.
        """
        state = self._state
        for number, (calls, own) in enumerate(zip(self._calls, saved, strict=True)):
            calls.load_state_dict(own)
            behind = len(state.histories[number].epochs) < state.finished
            state.stopped[number] = behind or calls.stopping()
