"""What a resumed run takes from the saved state of its optimizer and schedule, and what from its settings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.training.optimizer import held_by, require_shared_groups

Group = dict[str, Any]


def groups_of(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Group]:
    """Return the options of the current groups of parameters, with the saved values where settings are equal.

    A setting that has changed has its new value; a learning rate keeps the factor that a schedule has given
    it. Groups may differ, because the options are compared for each parameter. An optimizer may also keep
    values in its groups that it computes in its steps.

    :param saved: the saved ``groups``, with the names of their parameters, and ``begun``: the optimizer when
        its run began (:func:`.optimizer.described`).
    :param now: the same of the current optimizer, before its first step.
    """
    pairs = zip(saved["groups"], saved["begun"]["groups"], strict=True)
    of_name = {name: (group, begun) for group, begun in pairs for name in group["params"]}
    same_kind = saved["begun"]["kind"] == now["begun"]["kind"]
    found = []
    for group, begun in zip(now["groups"], now["begun"]["groups"], strict=True):
        # A group of parameters that were frozen has its own options.
        own, then = next((of_name[name] for name in group["params"] if name in of_name), (group, begun))
        made = own | group if same_kind else dict(group)
        for name in group.keys() & own.keys() - {"params"}:
            if then.get(name) == begun.get(name) and (same_kind or name == "lr"):
                made[name] = own[name]
            elif name == "lr" and then.get(name):
                made[name] = own[name] * (begun[name] / then[name])
        found.append(made)
    return found


def saves_itself(optimizer: Optimizer, saved: bool) -> bool:
    """Return whether an optimizer has a ``state_dict`` of its own, as those that hold others need.

    :param saved: whether the run is saved.
    :raises InputError: it holds others, whose state would not be saved.
    """
    kind = type(optimizer)
    own = kind.state_dict is not Optimizer.state_dict
    if saved and not own and held_by(optimizer):
        raise InputError(
            f"optimizer: {kind.__name__} holds other optimizers, whose state a checkpoint would lack; "
            "give it a state_dict and a load_state_dict, or use no checkpoint"
        )
    return own


def load_own_state(optimizer: Optimizer, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Restore an optimizer with a ``state_dict`` of its own.

    :param saved: ``begun`` and ``own``, from the checkpoint.
    :param now: ``begun`` of the current optimizer.
    :raises CheckpointError: its settings have changed, or it no longer shows the groups of those it holds.
    """
    name = type(optimizer).__name__
    if saved["begun"] != now["begun"]:
        raise CheckpointError(f"{name} has a state_dict of its own, so its settings cannot change")
    optimizer.load_state_dict(saved["own"])
    try:
        require_shared_groups(optimizer)
    except InputError as error:
        raise CheckpointError(f"after load_state_dict, {error}") from None


def can_step(optimizer: Optimizer) -> bool:
    """Return whether an optimizer finds the moments that it needs, by a step of its copy."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for leaf in group["params"]:
            leaf.grad = torch.zeros_like(leaf)
    try:
        trial.step()
    except KeyError:
        return False
    return True


def kind_of(schedule: Any) -> Any:
    """Return JSON-able values that identify the class of a schedule of torch, and of its parts."""
    if schedule is None:
        return None
    kind = type(schedule)
    parts = getattr(schedule, "_schedulers", [])
    return [f"{kind.__module__}.{kind.__qualname__}", *map(kind_of, parts)]


def schedule_state(schedule: Any, saved: Any, another: bool) -> Any:
    """Return a saved state of a schedule in the types of this one, of the same kind.

    :param another: take the arguments of this one where they differ; else they are refused.
    :raises CheckpointError: it is from a schedule with other arguments.
    """
    fresh = schedule.state_dict()
    found = _alike(saved, fresh)
    arguments = inspect.signature(type(schedule)).parameters.keys() - {"optimizer", "last_epoch"}
    for name in sorted(arguments & fresh.keys() & found.keys()):
        then, now = found[name], fresh[name]
        if not isinstance(now, bool | int | float | str | tuple | list | dict) or then == now:
            continue
        if not another:
            raise CheckpointError(f"schedule: {name} was {then!r}, is now {now!r}")
        found[name] = now
    if "base_lrs" in fresh:
        found["base_lrs"] = fresh["base_lrs"]
    for number, part in enumerate(getattr(schedule, "_schedulers", [])):
        found["_schedulers"][number] = schedule_state(part, found["_schedulers"][number], another)
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
