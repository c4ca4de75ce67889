"""A trained model and guide as a folder: weights, their description, and a page on how to load them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

import pyro_dvae
from pyro_dvae import checks
from pyro_dvae.checkpoint import load_checkpoint, save_checkpoint
from pyro_dvae.errors import CheckpointError, InputError, warn
from pyro_dvae.files import user_path, write_atomically
from pyro_dvae.programs.parameters import discover
from pyro_dvae.programs.row_parameters import refuse_other_rows
from pyro_dvae.programs.vectorised import Evaluation
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History
from pyro_dvae.using.rebuilding import Description, ForeignPartError, Rebuilt

WEIGHTS, CARD = "model.safetensors", "README.md"
_KIND, _CONSTANT = "fitted", "constants/"


def save(fitted: Fitted, folder: str | os.PathLike[str]) -> Path:
    """Write the best weights, one row of each data argument, the history, and a page about them; no pickle.

    Keyword arguments that ``fit`` passed to model and guide are kept if they are tensors, numbers or text, or
    lists or dicts of these; a warning names others.

    :param fitted: what ``fit`` returned.
    :param folder: created if necessary; files of an earlier save are replaced.
    :returns: the folder.
    """
    checks.instance("fitted", fitted, Fitted, "what fit returns")
    refuse_other_rows(fitted.trained, "guide", "keep its values with pyro.get_param_store().save")
    path = user_path("folder", folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"folder: {path} is a file; name a folder")
    path.mkdir(parents=True, exist_ok=True)
    live = fitted.trained.tensors()
    plain = _plain_names(live)
    tensors = {plain[name]: fitted.best.get(name, value) for name, value in live.items()}
    tensors |= {f"rows/{number}": row for number, row in enumerate(fitted.rows)}
    tensors |= {
        f"{_CONSTANT}{name}": v for name, v in fitted.constants.items() if isinstance(v, torch.Tensor)
    }
    plain_constants = {name: value for name, value in fitted.constants.items() if _is_plain(value)}
    kept = {*plain_constants, *(name for name in fitted.constants if f"{_CONSTANT}{name}" in tensors)}
    lost = sorted(set(fitted.constants) - kept)
    if lost:
        warn(f"folder: it cannot hold the keyword arguments {_listed(lost)}")
    description = Description()
    try:
        programs = {"model": description.of(fitted.model), "guide": description.of(fitted.guide)}
        tensors |= description.tensors
    except ForeignPartError:
        programs = None  # the user passes them to load
    versions = {"pyro_dvae": pyro_dvae.__version__, "torch": torch.__version__, "pyro": pyro.__version__}
    state = {
        "kind": _KIND,
        "history": fitted.history.to_dict(),
        "versions": versions | {"numpy": np.__version__},
        "programs": programs,
        "about": dict(fitted.about),
        "constants": plain_constants,
        "lost": lost,
    }
    save_checkpoint(path / WEIGHTS, tensors, state)
    write_atomically(path / CARD, _card(fitted, path, programs is not None), make_folder=False)
    return path


def load_weights(
    folder: str | os.PathLike[str],
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Fitted:
    """Copy the weights in a folder of :func:`save` into a model and a guide of the same shapes.

    One run of both on a stored row finds their parameters; their modules are put in evaluation mode.

    :param model: made again from its description by default, as the guide, if both are of this package.
    :param device: where a model and guide that are made again go.
    :param kwargs: keyword arguments of model and guide in place of the saved ones.
    :raises InputError: model and guide are not of this package, and one is missing.
    :raises CheckpointError: the folder is damaged, or model and guide have other parameters.
    """
    path = user_path("folder", folder) / WEIGHTS
    tensors, state = load_checkpoint(path)
    if state.get("kind") != _KIND:
        raise CheckpointError(f"checkpoint {path}: not a saved model")
    if model is None and guide is None and state.get("programs") is not None:
        model, guide = _rebuilt(path, tensors, state["programs"], device)
        tensors = {name: each.to(device) for name, each in tensors.items()}
    if model is None or guide is None:
        raise InputError(
            "model, guide: the folder holds only the weights of your own programs; pass both to load"
        )
    checks.pair(model, guide)
    rows = tuple(tensors[name] for name in sorted(tensors) if name.startswith("rows/"))
    apart = ("rows/", "arguments/", _CONSTANT)
    saved = {name: value for name, value in tensors.items() if not name.startswith(apart)}
    constants = dict(state.get("constants", {}))
    constants |= {n.removeprefix(_CONSTANT): each for n, each in tensors.items() if n.startswith(_CONSTANT)}
    constants |= kwargs
    if lost := [name for name in state.get("lost", []) if name not in kwargs]:
        warn(
            f"folder: the model was trained with the keyword arguments {_listed(lost)}, which are not in the "
            "folder; pass them to load",
        )

    def run() -> None:
        arguments = Arguments(rows, constants)
        with Evaluation():  # batch normalisation cannot train on a single row
            trace = arguments.call(pyro.poutine.trace(guide).get_trace)
            arguments.call(pyro.poutine.replay(model, trace=trace))

    with pyro.get_param_store().scope() as store:  # without the names of other models
        trained = discover(model, guide, run, data={"data": rows[0]})
        names = {plain: name for name, plain in _plain_names(trained.tensors()).items()}
        saved = {names.get(name, name): value for name, value in saved.items()}
        trained.require_same(saved, f"checkpoint {path}")
        trained.assign(saved)
    for module in trained.modules.values():
        module.eval()
    history, about = History(**state["history"]), state.get("about", {})
    return Fitted(model, guide, history, {}, store, trained, rows, constants, about)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives back this value."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _plain_names(tensors: Iterable[str]) -> dict[str, str]:
    """Remove the numbers that distinguish modules of one process from names, if they stay unique."""
    names = list(tensors)
    plain = [re.sub(r"#\d+$", "", name) for name in names]
    return {name: each if plain.count(each) == 1 else name for name, each in zip(names, plain, strict=True)}


def _rebuilt(
    path: Path, tensors: dict[str, torch.Tensor], programs: Any, device: torch.device | str
) -> tuple[Any, Any]:
    rebuilt = Rebuilt(tensors)
    try:
        with forked():  # constructors draw weights before they are loaded
            model, guide = (rebuilt.of(programs[name]) for name in ("model", "guide"))
    except (InputError, CheckpointError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    kinds = {each.dtype for name, each in tensors.items() if name.startswith("parameters/")}
    for program in (model, guide):
        program.to(device)
        if len(kinds) == 1:
            program.to(*kinds)
    return model, guide


def _card(fitted: Fitted, folder: Path, complete: bool) -> str:
    """Return the page about the model and how to load it."""
    count = sum(each.numel() for each in fitted.trained.parameters.values())
    history = fitted.history
    best = history.best_validation_bound
    shapes = ", ".join(
        f"{list(row.shape[1:])} {str(row.dtype).removeprefix('torch.')}" for row in fitted.rows
    )
    lines = [
        f"# {folder.name}",
        "",
        f"A model and a guide for Pyro, trained with pyro_dvae {pyro_dvae.__version__}.",
        "",
        f"- parameters: {count:,}",
        f"- rows: {shapes}",
        f"- epochs: {len(history.epochs)}" + (f", best {history.best_epoch}" if history.best_epoch else ""),
    ]
    if best is not None:
        lines.append(f"- validation bound of the best epoch: {best:.3f} nats per observation")
    lines += _of_run(fitted.about)
    lines += [
        "",
        "```python",
        "import pyro_dvae as dv",
        "",
        f"fitted = dv.load({str(folder)!r})"
        if complete
        else f"fitted = dv.load({str(folder)!r}, model=model, guide=guide)  # of the same shapes",
        "codes = fitted.encode(x)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _of_run(about: Mapping[str, Any]) -> list[str]:
    """Return information from a run folder, or from the data, as lines of the page."""
    lines = []
    config, results = about.get("config", {}), about.get("results", {})
    if "data" in config:
        lines.append(f"- data: {config['data']['name']} ({config['data']['source']})")
    columns = about.get("columns") or [each["name"] for each in config.get("data", {}).get("columns") or []]
    if columns:
        lines.append(f"- columns: {', '.join(columns)}")
    if "options" in config:
        shown = ", ".join(f"{name} {value}" for name, value in config["options"].items() if value is not None)
        lines.append(f"- options: {shown}")
    for name, label in (
        ("test_bound", "test bound"),
        ("importance_weighted_bound", "importance-weighted bound"),
    ):
        if figures := results.get(name):
            error = figures["standard_error"]
            lines.append(f"- {label}: {figures['mean']:.3f} ± {error:.3f} nats per row, on clean input")
    return lines
