"""The use of gradients: accumulation over batches, clipping, the optimizer, and averages of parameters."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.engine.adam import Slot, slot, start, step_options
from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.internals import move_averages
from pyro_dvae.training import optimizer as optimizers
from pyro_dvae.training.settings import Settings


class Update:
    """The optimizer, with accumulation and clipping before it, and schedules and averages after it.

    :param parameters: the leaves to train, by name.
    :param settings: provides ``optimizer``, ``parameter_options``, ``schedule``, ``clip_norm``,
        ``accumulate`` and ``ema``.
    :param learning_rate: the base rate.
    """

    def __init__(self, parameters: Mapping[str, Tensor], settings: Settings, learning_rate: float) -> None:
        choice = settings.optimizer
        self.parameters = dict(parameters)
        self.leaves = list(parameters.values())
        self.optimizer = optimizers.build(choice, parameters, learning_rate, settings.parameter_options)
        self._clip_norm, self._accumulate = settings.clip_norm, settings.accumulate
        clips = {name: optimizers.clips_of(choice, name) for name in parameters}
        self._clips = {name: each for name, each in clips.items() if each}
        self._base = [_rate_of(group) for group in self.optimizer.param_groups]
        make = optimizers.schedule_of(choice) or settings.torch_schedule
        self._schedule: Any = None
        if make is not None:
            with calling("schedule"):
                self._schedule = make(self.optimizer)
        self._factor = 1.0
        self._gathered: dict[str, Tensor] = {}
        self._batches, self._rows = 0, 0.0
        self.decay = settings.ema
        self.average: dict[str, Tensor] | None = None
        if self.decay is not None:
            self.average = {name: leaf.detach().clone() for name, leaf in parameters.items()}

    # Gradients

    def take(self, rows: float | None) -> None:
        """Use the gradients in ``.grad``: accumulate them, and step the optimizer when enough are there.

        :param rows: rows of the batch if its loss is scaled to a whole data set, so that gradients are
            averaged over the rows; None if losses are sums over rows, so that gradients are added.
        """
        if self._accumulate == 1:
            self._step()
            return
        weight = 1.0 if rows is None else rows
        for name, leaf in self.parameters.items():
            if leaf.grad is not None:
                part = leaf.grad.detach() * weight
                self._gathered[name] = part if name not in self._gathered else self._gathered[name] + part
        self._batches, self._rows = self._batches + 1, self._rows + (0.0 if rows is None else rows)
        if self._batches == self._accumulate:
            self.flush()

    def forget_gradients(self) -> None:
        """Drop the gradients accumulated so far."""
        self._gathered, self._batches, self._rows = {}, 0, 0.0

    def flush(self) -> None:
        """Use the gradients accumulated so far, at the end of an epoch."""
        if not self._batches:
            return
        for name, leaf in self.parameters.items():
            part = self._gathered.get(name)
            leaf.grad = part if part is None or not self._rows else part / self._rows
        self.forget_gradients()
        self._step()

    def _step(self) -> None:
        if self._clip_norm is not None:
            clip_grad_norm_(self.leaves, self._clip_norm)
        for name, clip in self._clips.items():
            if self.parameters[name].grad is not None and "clip_norm" in clip:
                clip_grad_norm_(self.parameters[name], clip["clip_norm"])
            if self.parameters[name].grad is not None and "clip_value" in clip:
                clip_grad_value_(self.parameters[name], clip["clip_value"])
        with calling("optimizer"):
            self.optimizer.step()
        self.note_step()

    def slots(self, leaves: Sequence[Tensor] | None = None) -> list[Slot] | None:
        """Return Adam's state of the leaves, to compile with their gradient; None if that is impossible.

        :param leaves: some of the leaves; by default all.
        """
        if self._accumulate > 1 or type(self.optimizer) not in (Adam, AdamW):
            return None
        start(self.optimizer)
        names = {id(leaf): name for name, leaf in self.parameters.items()}
        chosen = self.leaves if leaves is None else leaves
        found = [slot(self.optimizer, leaf, **self._clips.get(names[id(leaf)], {})) for leaf in chosen]
        return [each for each in found if each is not None] if all(found) else None

    # Averages: e ← d·e + (1 − d)·θ after every step

    def note_step(self) -> None:
        """Update the averages after a step."""
        if self.average is not None and self.decay is not None:
            with torch.no_grad():
                move_averages(list(self.average.values()), self.leaves, 1 - self.decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the parameters with their averages in the body, if averages are kept."""
        if self.average is None:
            yield
            return
        kept = {name: leaf.detach().clone() for name, leaf in self.parameters.items()}
        try:
            self._assign(self.average)
            yield
        finally:
            self._assign(kept)

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, leaf in self.parameters.items():
                leaf.copy_(values[name])

    # Rates

    @property
    def rate(self) -> float:
        """The current learning rate of the first group; NaN if the optimizer has none."""
        return _rate_of(self.optimizer.param_groups[0])

    def step_options(self) -> list[tuple[float, ...]]:
        """Return Adam's current options of every leaf: see :func:`pyro_dvae.engine.adam.step_options`."""
        groups = self.optimizer.param_groups
        found = {id(leaf): step_options(group) for group in groups for leaf in group["params"]}
        return [found[id(leaf)] for leaf in self.leaves]

    def begin_epoch(self, factor: float) -> None:
        """Multiply the base rates by ``factor``, unless a schedule of torch sets them."""
        if self._schedule is None and factor != self._factor:
            self._factor = factor
            for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
                if "lr" in group:
                    group["lr"] = base * factor

    def end_epoch(self, validation_bound: float | None) -> None:
        """Step a schedule of torch, if there is one; ReduceLROnPlateau watches the validation bound."""
        # Compiled steps do not call the optimizer, about which torch would warn.
        with calling("schedule"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
            if isinstance(self._schedule, ReduceLROnPlateau):
                if validation_bound is not None:
                    sign = -1 if self._schedule.mode == "min" else 1
                    self._schedule.step(sign * validation_bound)
            elif self._schedule is not None:
                self._schedule.step()

    def require_validation(self, validates: bool) -> None:
        """Refuse ReduceLROnPlateau without a validation bound."""
        if not validates and isinstance(self._schedule, ReduceLROnPlateau):
            raise InputError("schedule: ReduceLROnPlateau needs a validation bound; give validation=")

    # Its state

    def state_dict(self) -> dict[str, Any]:
        """Return numbers and tensors, by names of parameters, for :meth:`load_state_dict`."""
        names = {id(leaf): name for name, leaf in self.parameters.items()}
        groups = [
            group | {"params": [names[id(leaf)] for leaf in group["params"]]}
            for group in self.optimizer.param_groups
        ]
        state = {names[id(leaf)]: dict(values) for leaf, values in self.optimizer.state.items()}
        gathered = {"tensors": self._gathered, "batches": self._batches, "rows": self._rows}
        schedule = None if self._schedule is None else self._schedule.state_dict()
        optimizer = {"state": state, "groups": groups}
        return {
            "optimizer": optimizer,
            "schedule": schedule,
            "factor": self._factor,
            "gathered": gathered,
            "average": self.average,
        }

    def settings_dict(self) -> dict[str, Any]:
        """Return :meth:`state_dict` without moments and averages, which several models hold jointly."""
        state = self.state_dict()
        return state | {"optimizer": state["optimizer"] | {"state": {}}, "average": None}

    def load_state_dict(self, saved: Mapping[str, Any], another_schedule: bool = False) -> None:
        """Restore what :meth:`state_dict` or :meth:`settings_dict` returned, for the same parameters.

        :param another_schedule: keep the arguments of this schedule if those of the saved one differ.
        :raises CheckpointError: the state is from another optimizer or schedule.
        """
        fresh = self.state_dict()
        saved = fresh | dict(saved)  # checkpoints of version 0.1 hold only moments
        optimizer = fresh["optimizer"] | saved["optimizer"]
        groups, now = optimizer["groups"], fresh["optimizer"]["groups"]
        if [group["params"] for group in groups] != [group["params"] for group in now]:
            raise CheckpointError("its optimizer has different parameter groups")
        number = {name: n for n, name in enumerate(name for group in groups for name in group["params"])}
        state = {number[name]: values for name, values in optimizer["state"].items()}
        groups = [group | {"params": [number[name] for name in group["params"]]} for group in groups]
        schedule = saved["schedule"]
        if self._schedule is not None:
            schedule = _schedule_state(self._schedule, schedule, another_schedule)
        try:
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            if self._schedule is not None:
                self._schedule.load_state_dict(schedule)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the state of its optimizer does not fit this one ({error})") from None
        on = {name: leaf.device for name, leaf in self.parameters.items()}
        self._factor, gathered = saved["factor"], saved["gathered"]
        self._gathered = {name: tensor.to(on[name]) for name, tensor in gathered["tensors"].items()}
        self._batches, self._rows = gathered["batches"], gathered["rows"]
        if self.average is not None and saved["average"] is not None:
            self.average = {name: saved["average"][name].to(on[name]) for name in self.average}


def _rate_of(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group of parameters; NaN if the optimizer has none."""
    if "lr" not in group:
        return math.nan
    rate = group["lr"]
    given = rate.item() if isinstance(rate, Tensor) else rate
    return checks.number("optimizer, parameter_options: lr", given, minimum=0.0)


def _schedule_state(schedule: Any, saved: Any, another: bool) -> Any:
    """Return a saved state of a schedule in the types of this one.

    :param another: take the arguments of this one where they differ; else they are refused.
    :raises CheckpointError: it is from a schedule with other arguments.
    """
    fresh = schedule.state_dict()
    found = _alike(saved, fresh)
    if not isinstance(found, dict):
        return found
    arguments = inspect.signature(type(schedule)).parameters.keys() - {"optimizer", "last_epoch"}
    for name in sorted(arguments & fresh.keys() & found.keys()):
        then, now = found[name], fresh[name]
        if not isinstance(now, bool | int | float | str | tuple | list | dict) or then == now:
            continue
        if not another:
            raise CheckpointError(f"schedule: {name} was {then!r}, is now {now!r}")
        found[name] = now
    parts = getattr(schedule, "_schedulers", [])  # of a schedule of schedules
    for number, part in enumerate(parts):
        found["_schedulers"][number] = _schedule_state(part, found["_schedulers"][number], another)
    return found


def _alike(saved: Any, fresh: Any) -> Any:
    """Return saved values in the types of fresh ones: a checkpoint keeps any mapping as a ``dict``."""
    if isinstance(fresh, list) and isinstance(saved, list) and len(saved) == len(fresh):
        return [_alike(*pair) for pair in zip(saved, fresh, strict=True)]
    if isinstance(fresh, tuple) and isinstance(saved, list):
        return tuple(saved)
    if not isinstance(fresh, dict) or not isinstance(saved, dict):
        return saved
    made = copy.copy(fresh)
    made.clear()
    made.update({key: _alike(value, fresh.get(key)) for key, value in saved.items()})
    return made
