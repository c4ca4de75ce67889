"""What a resumed run takes from the saved state of its optimizer and schedule, and what from its settings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from pyro_dvae.errors import CheckpointError

Group = dict[str, Any]


def groups_of(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Group]:
    """Return the options of the current groups of parameters, with the saved values where settings are equal.

    A setting that has changed has its new value; a learning rate keeps the factor that a schedule has given
    it. Groups may differ, because the options are compared for each parameter.

    :param saved: the saved ``groups``, with the names of their parameters, and ``begun``: the optimizer when
        its run began (:func:`.optimizer.described`).
    :param now: the same of the current optimizer, before its first step.
    :raises CheckpointError: the parameters are others.
    """
    pairs = zip(saved["groups"], saved["begun"]["groups"], strict=True)
    of_name = {name: (group, begun) for group, begun in pairs for name in group["params"]}
    names = [name for group in now["groups"] for name in group["params"]]
    if of_name.keys() != set(names):
        raise CheckpointError("its optimizer has other parameters")
    same_kind = saved["begun"]["kind"] == now["begun"]["kind"]
    found = []
    for group, begun in zip(now["groups"], now["begun"]["groups"], strict=True):
        own, then = of_name[group["params"][0]]
        made = dict(group)
        for name in group.keys() & own.keys() - {"params"}:
            if then.get(name) == begun.get(name) and (same_kind or name == "lr"):
                made[name] = own[name]
            elif name == "lr" and then.get(name):
                made[name] = own[name] * (begun[name] / then[name])
        found.append(made)
    return found


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
