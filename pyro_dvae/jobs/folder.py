"""Run folders: their files, loading a model from one, and a description in words."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock
from pyro.params.param_store import param_with_module_name

from pyro_dvae.checkpoint import load_parameters
from pyro_dvae.datasets.array_scale import Units, units_of
from pyro_dvae.datasets.columns import Columns
from pyro_dvae.errors import CheckpointError, DataError, InputError
from pyro_dvae.evaluation.estimates import plus_minus
from pyro_dvae.files import author, read_json, remove_left_over, unwritable, user_path, write_atomically
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import (
    build_corruption,
    build_decoder,
    build_encoder,
    check_training,
    require_memory,
)
from pyro_dvae.models import DVAE
from pyro_dvae.ownership import own
from pyro_dvae.text import labelled
from pyro_dvae.training.run_state import read_training

CONFIG = "config.json"
METRICS = "metrics.jsonl"
LOG = "log.csv"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint.safetensors"
RESULTS = "results.json"
PICTURES = ("learning_curves", "prior_samples", "reconstructions", "manifold", "column_errors", "codes")


_CONFIG = {
    "options": dict,
    "data": {
        "name": str,
        "source": str,
        "substituted_for": (str, None),
        "dimension": int,
        "image_shape": ([int], None),
        "sizes": [int],
        "columns?": [dict],
        "mean_total?": float,
        "offset": float,
        "factor": float,
        "limits": ([float], None),
    },
    "versions?": {"pyro_dvae?": str},
}
_FIGURE = {"mean": float, "standard_error": (float, None)}
_RESULTS = {
    "test_bound?": _FIGURE,
    "trained_bound?": _FIGURE,
    "importance_weighted_bound?": _FIGURE,
}


def new_folder(output: str | None, stem: str) -> tuple[Path, BaseFileLock]:
    """Make the folder of a new run, and return it with its lock; refuse a folder that has a run.

    Without ``output`` it is the first free one of ``runs/<stem>``, ``runs/<stem>-2``, ...
    """
    if output is not None:
        folder = user_path("output", output)
        _require_no_run(folder)
        _make(folder, exist_ok=True)
        lock = own("output", folder)
        try:
            _require_no_run(folder)  # another process may have started one
        except InputError:
            lock.release()
            raise
        return folder, lock
    for name in itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2))):
        folder = Path("runs") / name
        if not folder.exists() and _make(folder, exist_ok=False):
            return folder, own("output", folder)
    raise AssertionError


def _make(folder: Path, exist_ok: bool) -> bool:
    """Make a folder; return False if it exists and ``exist_ok`` is False."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok and folder.is_dir():
            return False
        raise unwritable(folder, error) from None
    return True


def _require_no_run(folder: Path) -> None:
    if (folder / CONFIG).exists() or (folder / CHECKPOINT).exists():
        place = shlex.quote(str(folder))
        raise InputError(
            f"output: {folder} already holds a run; continue with --resume {place}, or name another folder"
        )


def require_present(folder: Path) -> None:
    """Refuse to write to a run folder that was removed or moved during the run."""
    if not (folder / CONFIG).exists():
        raise InputError(f"output: the run folder {folder} was removed or moved while the run was using it")


def clean_up(folder: Path) -> None:
    """Remove partial files of killed processes in a run folder that this process owns."""
    remove_left_over(folder, CONFIG, METRICS, CHECKPOINT, RESULTS, *(f"{name}.png" for name in PICTURES))


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``config.json`` of a run folder, whose structure and options are checked."""
    path = user_path("run", folder) / CONFIG
    if not path.parent.is_dir():
        raise InputError(f"run: no folder {path.parent}")
    try:
        config: dict[str, Any] = read_json("run", path, _CONFIG)
    except FileNotFoundError:
        raise InputError(f"run: {path.parent} holds no {CONFIG}, so it is not a run folder") from None
    data = config["data"]
    shape = data["image_shape"]
    for name, fits in {
        "image_shape": shape is None or (len(shape) in (2, 3) and math.prod(shape) == data["dimension"]),
        "sizes": len(data["sizes"]) == 3,
        "factor": 0 < data["factor"] < math.inf,
        "limits": shape is None or len(data["limits"] or ()) == 2,
        "columns": 0 < data["dimension"] == len(data_units(config)),
    }.items():
        if not fits:
            raise InputError(f"run: {path} was {author(config)}: {name} does not fit")
    try:
        check_training(options_of(config))
    except InputError as error:
        raise InputError(f"run: {path}: {error}") from None
    return config


def data_units(config: dict[str, Any]) -> Units:
    """Return what converts values to the units of the data in the content of ``config.json``."""
    try:
        return units_of(config["data"])
    except DataError as error:
        raise InputError(f"run: it was not written by this program: {error}") from None


def shape_of(config: dict[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of an image in the content of ``config.json``; None for a table."""
    shape = config["data"]["image_shape"]
    return None if shape is None else tuple(shape)


def options_of(config: dict[str, Any]) -> Options:
    """Return the options in the content of ``config.json``."""
    return Options.from_dict(config["options"], config.get("versions", {}).get("pyro_dvae"))


def read_results(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``results.json`` of a run folder, checked; None if there is none."""
    try:
        results: dict[str, Any] = read_json("run", folder / RESULTS, _RESULTS)
    except FileNotFoundError:
        return None
    return results


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically; the folder must exist."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", make_folder=False)


def load_run(folder: str | Path, which: str = "best") -> tuple[DVAE, dict[str, Any]]:
    """Rebuild the model of a run with its best (or last) weights; return it and the configuration."""
    folder = user_path("run", folder)
    config = read_config(folder)
    options = options_of(config)
    units = data_units(config)
    columns = units if isinstance(units, Columns) else None
    shape = (config["data"]["dimension"], shape_of(config), columns)
    require_memory(options, 1, *shape)
    if not (folder / CHECKPOINT).exists():
        raise CheckpointError(
            f"run: {folder} has no checkpoint yet, its first epoch is not finished; train it with "
            f"--resume {shlex.quote(str(folder))}"
        )
    dvae = DVAE(build_encoder(options, *shape), build_decoder(options, *shape), build_corruption(options))
    saved = load_parameters(folder / CHECKPOINT, which)
    parts = {"encoder": dvae.guide.encoder, "decoder": dvae.model.decoder, "x_tilde": dvae.guide.corruption}
    wanted: dict[str, torch.Tensor] = {
        param_with_module_name(part, name): parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }
    if odd := sorted(set(saved) ^ set(wanted)):
        raise CheckpointError(
            f"checkpoint {folder / CHECKPOINT}: does not fit {CONFIG}: parameter {odd[0]!r}"
        )
    kept = load_parameters(folder / CHECKPOINT, which, "buffers")
    networks = {"guide.encoder": dvae.guide.encoder, "model.decoder": dvae.model.decoder}
    for prefix, module in networks.items():
        found = {name: buffer for name, buffer in module.named_buffers(prefix) if name in kept}
        wanted, saved = wanted | found, saved | {name: kept[name] for name in found}
    with torch.no_grad():
        for name, tensor in wanted.items():
            if saved[name].shape != tensor.shape:
                raise CheckpointError(
                    f"checkpoint {folder / CHECKPOINT}: {name!r} has shape {tuple(saved[name].shape)}, "
                    f"{CONFIG} means {tuple(tensor.shape)}"
                )
            tensor.copy_(saved[name])
    return dvae, config


def describe(folder: str | Path) -> dict[str, Any]:
    """Return options, data, progress, results and files of a run folder, JSON-able.

    It reads the whole checkpoint and checks its digests.
    """
    folder = user_path("run", folder)
    config = read_config(folder)
    options = options_of(config).as_dict()
    content: dict[str, Any] = {"folder": str(folder), **config, "options": options, "progress": None}
    if (folder / CHECKPOINT).exists():
        tensors, state = read_training(folder / CHECKPOINT)
        history = state["history"]
        content["progress"] = {
            "epochs_done": state["epoch"],
            "epochs": config["options"]["epochs"],
            "best_epoch": history["best_epoch"],
            "best_validation_bound": history["best_validation_bound"],
            "training_seconds": round(sum(history["seconds"]), 1),
            "parameters": sum(t.numel() for name, t in tensors.items() if name.startswith("parameters/")),
        }
    content["results"] = read_results(folder)
    content["files"] = sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."
    )
    return content


def lines(content: dict[str, Any]) -> str:
    """Return the description as lines for a terminal."""
    return labelled([*facts(content), ("files", ", ".join(content["files"]))])


def facts(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return model, data, progress and results, as labels and texts."""
    data, options = content["data"], content["options"]
    sizes = " / ".join(f"{size:,}" for size in data["sizes"])
    made = [
        ("run", content["folder"]),
        ("data", f"{data['name']}, {sizes} (train / validation / test): {data['source']}"),
        ("noise", f"{options['noise_kind']} {options['noise']:g} ({options['noise_schedule']})"),
        ("bound", f"{options['bound']}, M = {options['corruptions']}, K = {options['particles']}"),
        (
            "network",
            (
                f"{_layers(options, 'encoder', 'hidden_layers')}, latent {options['latent_size']}, "
                f"{_layers(options, 'decoder', 'decoder_layers')}, {options['activation']}, "
                f"{options['likelihood']}"
            ),
        ),
    ]
    progress = content["progress"]
    if progress is None:
        made.append(("progress", "no checkpoint yet; --resume begins at the beginning"))
    else:
        best = progress["best_epoch"]
        validation = progress["best_validation_bound"]
        found = best is not None and validation is not None
        shown = f"; best epoch {best}, validation {validation:.2f} nats" if found else ""
        done = f"{progress['epochs_done']} of {progress['epochs']} epochs"
        made.append(("progress", f"{done}, {progress['training_seconds']:.0f} s{shown}"))
        made.append(("weights", f"{progress['parameters']:,}"))
    for name in ("test_bound", "importance_weighted_bound"):
        figure = (content["results"] or {}).get(name)
        if figure:
            label = name.replace("_", " ")
            made.append(("result", f"{label} {plus_minus(figure['mean'], figure['standard_error'], 2)} nats"))
    return made


def _layers(options: dict[str, Any], part: str, layers: str) -> str:
    kind = options[part]
    return f"{part}{'' if kind == 'mlp' else ' ' + kind} {options[layers]} x {options['width']}"
