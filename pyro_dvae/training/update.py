"""The use of gradients: accumulation over batches, clipping, the optimizer, and averages of parameters."""

from __future__ import annotations

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
from pyro_dvae.training import continuing
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
        self._saves_itself = continuing.saves_itself(self.optimizer, settings.checkpoint is not None)
        self.described = optimizers.described(self.optimizer)
        self._schedule = self._scheduled(settings)
        self._begun = optimizers.described(self.optimizer)
        self._factor = 1.0
        self._gathered: dict[str, Tensor] = {}
        self._batches, self._rows = 0, 0.0
        self.decay = settings.ema
        self.average: dict[str, Tensor] | None = None
        if self.decay is not None:
            self.average = {name: leaf.detach().clone() for name, leaf in parameters.items()}

    def _scheduled(self, settings: Settings) -> Any:
        """Return a schedule of torch; None if :meth:`begin_epoch` gets the factors."""
        own, given = optimizers.schedule_of(settings.optimizer), settings.torch_schedule
        if own is not None and (given is not None or settings.has_schedule):
            raise InputError("schedule: the Pyro optimizer has its own; give one of them")
        make = own or given
        if make is None:
            return None
        with calling("schedule"):
            return optimizers.checked_schedule(make(self.optimizer), self.optimizer)

    # Gradients

    def take(self, rows: float | None) -> None:
        """Use the gradients in ``.grad``: accumulate them, and step the optimizer when enough are there.

        :param rows: rows of the batch if its loss is scaled to a whole data set, so that gradients are
            averaged over the rows; None if losses are sums over rows, so that gradients are added.
        """
        if self._accumulate == 1 and not self._batches:
            self._step()
            return
        weight = 1.0 if rows is None else rows
        for name, leaf in self.parameters.items():
            if leaf.grad is not None:
                part = leaf.grad.detach() * weight
                self._gathered[name] = part if name not in self._gathered else self._gathered[name] + part
        self._batches, self._rows = self._batches + 1, self._rows + (0.0 if rows is None else rows)
        if self._batches >= self._accumulate:  # it may have changed on resume
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
        if not isinstance(self._schedule, ReduceLROnPlateau):
            self._advance(1)
        elif validation_bound is not None:
            with calling("schedule"):
                self._schedule.step(-validation_bound if self._schedule.mode == "min" else validation_bound)

    def _advance(self, epochs: int) -> None:
        """Step a schedule of torch that does not watch a bound, if there is one."""
        if self._schedule is None or isinstance(self._schedule, ReduceLROnPlateau):
            return
        # Compiled steps do not call the optimizer, about which torch would warn.
        with calling("schedule"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
            for _ in range(epochs):
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
        # Keys other than parameters are the optimizer's own.
        state = {names.get(id(key), key): values for key, values in self.optimizer.state.items()}
        gathered = {"tensors": self._gathered, "batches": self._batches, "rows": self._rows}
        schedule = None if self._schedule is None else self._schedule.state_dict()
        optimizer = {"state": state, "groups": groups, "begun": self._begun}
        if self._saves_itself:
            optimizer |= {"state": {}, "own": self.optimizer.state_dict()}
        return {
            "optimizer": optimizer,
            "schedule": schedule,
            "schedule_kind": continuing.kind_of(self._schedule),
            "factor": self._factor,
            "gathered": gathered,
            "average": self.average,
            "frozen": [name for name, leaf in self.parameters.items() if not leaf.requires_grad],
        }

    def settings_dict(self) -> dict[str, Any]:
        """Return :meth:`state_dict` without moments and averages, which several models hold jointly."""
        state = self.state_dict()
        del state["average"]
        return state | {"optimizer": state["optimizer"] | {"state": {}}}

    def load_state_dict(
        self, saved: Mapping[str, Any], finished: int = 0, another_schedule: bool = False
    ) -> None:
        """Restore what :meth:`state_dict` or :meth:`settings_dict` returned, for the same parameters.

        Settings that have changed replace the saved ones. Another kind of optimizer begins with new moments,
        and so does one that needs further moments (``amsgrad``).

        :param finished: number of finished epochs.
        :param another_schedule: if the saved schedule is of another kind, use this one as if from the
            beginning; if its arguments differ, continue with these.
        :raises CheckpointError: the state is from another optimizer or schedule.
        """
        fresh = self.state_dict()
        saved = fresh | dict(saved)  # checkpoints of version 0.1 hold only moments
        optimizer, now = fresh["optimizer"] | saved["optimizer"], fresh["optimizer"]
        same_schedule = saved["schedule_kind"] == fresh["schedule_kind"]
        if not (same_schedule or another_schedule):
            kinds = f"{saved['schedule_kind']!r}, is now {fresh['schedule_kind']!r}"
            raise CheckpointError(f"schedule: was {kinds}")
        continued = continuing.groups_of(optimizer, now)
        groups = continued if same_schedule else now["groups"]
        number = {name: n for n, name in enumerate(name for group in groups for name in group["params"])}
        groups = [group | {"params": [number[name] for name in group["params"]]} for group in groups]
        frozen = {name for group in optimizer["groups"] for name in group["params"]} - number.keys()
        items = optimizer["state"].items()
        state = {number.get(key, key): values for key, values in items if key not in frozen}
        if optimizer["begun"]["kind"] != now["begun"]["kind"]:
            state = {}
        try:
            if self._saves_itself:
                continuing.load_own_state(self.optimizer, optimizer, now)
            else:
                self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            if optimizer["begun"] != now["begun"] and not continuing.can_step(self.optimizer):
                self.optimizer.state.clear()
            if self._schedule is not None and same_schedule:
                schedule = continuing.schedule_state(self._schedule, saved["schedule"], another_schedule)
                self._schedule.load_state_dict(schedule)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the state of its optimizer does not fit this one ({error})") from None
        if same_schedule:
            self._factor = saved["factor"]
        else:
            self._advance(finished)
        self._restore_parameters(saved)

    def _restore_parameters(self, saved: Mapping[str, Any]) -> None:
        """Restore what belongs to single parameters: gathered gradients, averages, what callbacks froze."""
        on, gathered = {name: leaf.device for name, leaf in self.parameters.items()}, saved["gathered"]
        tensors = gathered["tensors"].items()
        self._gathered = {name: tensor.to(on[name]) for name, tensor in tensors if name in on}
        self._batches, self._rows = gathered["batches"], gathered["rows"]
        # Averages that the run did not have begin with the restored parameters.
        values = self.parameters | (saved["average"] or {})
        for name, average in (self.average or {}).items():
            average.copy_(values[name].detach())
        for name in self.parameters.keys() & set(saved["frozen"]):
            self.parameters[name].requires_grad_(False)


def _rate_of(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group of parameters; NaN if the optimizer has none."""
    if "lr" not in group:
        return math.nan
    rate = group["lr"]
    given = rate.item() if isinstance(rate, Tensor) else rate
    return checks.number("optimizer, parameter_options: lr", given, minimum=0.0)
