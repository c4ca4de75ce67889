"""The checkpoint of a training run: named tensors and a state, packed, read and compared."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.checkpoint import from_json, read_checkpoint, to_json
from pyro_dvae.errors import CheckpointError, InputError, warn
from pyro_dvae.files import unfit
from pyro_dvae.levels import Level
from pyro_dvae.programs.parameters import Trained, discover
from pyro_dvae.rows import Data, LoaderBatches
from pyro_dvae.training.settings import Settings

KIND = "training"
_ABSENT = "nothing"
# Settings that checkpoints of version 0.1 do not have, and those that earlier ones of 0.2 do not have.
_NEW_SETTINGS = {"accumulate": 1, "drop_last": False}
_NOT_SAVED_BEFORE = ("loss", "transform")
_STATE = {
    "epoch": int,
    "position": int,
    "seen": int,
    "seconds": float,
    "settings": dict,
    "config": (dict, None),
    "data": dict,
    "random": {"python": list, "numpy?": list},
    "kept?": dict,
    "ranks?": [{"python": list, "numpy?": list}],
    "history": {
        "epochs": [int],
        "train_bound": [(float, None)],
        "validation_bound": [(float, None)],
        "learning_rate": [float],
        "seconds": [float],
        "best_epoch": (int, None),
        "best_validation_bound": (float, None),
        "first_losses?": [float],
    },
}


def read_training(
    path: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the ``wanted`` tensors and the checked state of a training run's checkpoint.

    :raises CheckpointError: the file is missing, damaged, or not of a training run.
    """
    tensors, state = read_checkpoint(path, wanted)
    if not isinstance(state, Mapping) or state.get("kind") != KIND:
        raise CheckpointError(f"checkpoint {path}: not from a training run")
    fault = unfit(state, _STATE)
    columns = ("train_bound", "validation_bound", "learning_rate", "seconds")
    if not fault and any(len(state["history"][each]) != state["epoch"] for each in ("epochs", *columns)):
        fault = f"history: expected {state['epoch']} epochs in each column"
    needed = ("epoch/losses", "rng/cpu", "rng/python")
    missing = [name for name in needed if wanted(name) and name not in tensors]
    if missing:
        fault = fault or f"{missing[0]} is missing"
    if fault:
        raise CheckpointError(f"checkpoint {path}: was not written by this program: {fault}")
    return tensors, state


@dataclass(frozen=True)
class Saved:
    """The contents of a checkpoint by owner, with the names that the owners use."""

    live: dict[str, Tensor]
    best: dict[str, Tensor] | None
    losses: list[float]
    random: tuple[dict[str, Tensor], dict[str, Any]]


def pack(
    *,
    live: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
    losses: list[float],
    random: tuple[Mapping[str, Tensor], Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors with prefixed names, and the part of the state that belongs to them."""
    tensors = dict(live)
    tensors["epoch/losses"] = torch.tensor(losses, dtype=torch.float64)
    for prefix, group in (("best", best or {}), ("rng", random[0])):
        tensors |= {f"{prefix}/{name}": tensor for name, tensor in group.items()}
    return tensors, {"random": dict(random[1])}


def unpack(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Saved:
    """Return the arguments of :func:`pack`."""
    return Saved(
        live=weights(tensors, best=False),
        best=_group(tensors, "best/") or None,
        losses=tensors["epoch/losses"].tolist(),
        random=(_group(tensors, "rng/"), state["random"]),
    )


def weights(tensors: Mapping[str, Tensor], best: bool) -> dict[str, Tensor]:
    """Return the parameters and buffers of the best epoch (if there is one), or the last ones."""
    last = {name: value for name, value in tensors.items() if name.startswith(("parameters/", "buffers/"))}
    return (_group(tensors, "best/") if best else {}) or last


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def identity(
    settings: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    data: Mapping[str, Data | LoaderBatches | None],
) -> dict[str, Any]:
    """Return the part of the state that identifies the run, as it will be read back from JSON."""
    if config is not None and not isinstance(config, Mapping):
        raise InputError(f"config: expected a dictionary of JSON-able values, got {type(config).__name__}")
    try:
        kept: Any = None if config is None else from_json(to_json(config))
    except InputError as error:
        raise InputError(f"config: {error}") from None
    prints: dict[str, Any] = {}
    for name, rows in data.items():
        if isinstance(rows, LoaderBatches):
            continue
        found = [None] if rows is None else rows.fingerprints()
        prints |= {f"{name}[{n}]" if n else name: each for n, each in enumerate(found)}
    return {"kind": KIND, "settings": dict(settings), "config": kept, "data": prints}


def require_same(
    saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str], where: str
) -> None:
    """Refuse a checkpoint of another configuration or other data, naming every difference."""
    free = {*may_change, *(["optimizer"] if "parameter_options" in may_change else [])}
    free |= {*(name for name in _NOT_SAVED_BEFORE if "loss" not in saved["settings"])}
    usual = {name: value for name, value in _NEW_SETTINGS.items() if name in now["settings"]}
    settings = [usual | saved["settings"], now["settings"]]
    if "learning_rate" in free:
        settings = [_without_rates(each) for each in settings]
    pairs = [(settings[0], settings[1]), (saved["config"] or {}, now["config"] or {})]
    differing = [
        f"{key} was {then!r}, is now {given!r}"
        for pair in pairs
        for key, then, given in _differences(*pair)
        if key not in free and key.partition(".")[0] not in free
    ]
    if differing:
        raise CheckpointError(f"{where}: from another configuration: {'; '.join(differing)}")
    for key, then, given in _differences(saved["data"], now["data"]):
        raise CheckpointError(f"{where}: from other data: {key} was {then!r}, is now {given!r}")


def require_known(may_change: Collection[str], saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a name that is neither an argument of training nor a key of ``config``, then or now."""
    places = [each[part] or {} for each in (saved, now) for part in ("settings", "config")]
    names = {"device", "metrics", *inspect.signature(Settings).parameters}
    names |= {name for place in places for name in (*place, *dict(_flat(place)))}
    for name in may_change:
        checks.known("may_change", name, names)


def _without_rates(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the learning rates of a chosen optimizer."""
    if not (optimizer := settings.get("optimizer")):
        return dict(settings)
    groups = [{name: value for name, value in each.items() if name != "lr"} for each in optimizer["groups"]]
    return {**settings, "optimizer": {**optimizer, "groups": groups}}


def require_epochs(epochs: int, finished: int, begun: bool, path: Path) -> None:
    """Refuse a total of fewer epochs than are ``finished``, and ``begun``, in a checkpoint."""
    if finished + begun > epochs:
        done = f"{finished} are done{' and another one is begun' if begun else ''}"
        raise InputError(f"epochs: {done} in {path}, expected no fewer, got {epochs}")


@contextmanager
def telling_of_levels(trained: Iterable[Trained], where: str) -> Iterator[None]:
    """Warn of each fixed level of a corruption for which the body restores another value."""
    modules = [root for each in trained for root in each.modules.values()]
    parts = {id(part): part for root in modules for part in root.modules() if isinstance(part, Level)}
    fixed = [part for part in parts.values() if part.schedule is None and not part.learnable]
    before = [part.value.detach().clone() for part in fixed]
    yield
    for part, value in zip(fixed, before, strict=True):
        if not torch.equal(part.value, value):
            then, now = (f"{float(each.double().mean()):g}" for each in (part.value, value))
            warn(f"{where}: its {part.argument} of {then} continues, not {now}; begin a new run for {now}")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    before, after = dict(_flat(then)), dict(_flat(now))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = [(key, before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in keys]
    return [(key, old, new) for key, old, new in pairs if old != new and not (old != old and new != new)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the values that are set; None counts as absent, like a later option in an old checkpoint."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def load_trained(
    path: str | os.PathLike[str],
    model: Callable[..., Any],
    guide: Callable[..., Any],
    bound: ELBO,
    batch: Tensor,
    which: str = "best",
) -> None:
    """Copy the parameters and buffers of a checkpoint into ``model`` and ``guide``, in place.

    A dry run of ``bound`` on ``batch`` finds the parameters. ``which`` is "best" (by validation; without
    validation, the last) or "last".
    """
    best = checks.known("which", which, ("best", "last")) == "best"
    packed, _ = read_training(path, lambda name: name.startswith(("best/", "parameters/", "buffers/")))
    chosen = weights(packed, best)
    trained: Trained = discover(model, guide, lambda: bound.loss(model, guide, batch), data={"batch": batch})
    trained.require_same(chosen, f"checkpoint {path}")
    trained.assign(chosen)
