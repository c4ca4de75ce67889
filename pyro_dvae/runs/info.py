"""What a run folder holds, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.runs import folder as run_folder
from pyro_dvae.training.checkpoint import load_checkpoint


def describe(folder: Path) -> dict[str, Any]:
    """Return options, data, progress, results and files of a run folder, JSON-able.

    The checkpoint is read whole and its digests are checked.
    """
    folder = folder.expanduser()
    config = run_folder.read_config(folder)
    content: dict[str, Any] = {"folder": str(folder), **config, "progress": None, "results": None}
    if (folder / run_folder.CHECKPOINT).exists():
        tensors, state = load_checkpoint(folder / run_folder.CHECKPOINT)
        history = state["history"]
        content["progress"] = {
            "epochs_done": state["epoch"],
            "epochs": config["options"]["epochs"],
            "best_epoch": history["best_epoch"],
            "best_validation_bound": history["best_validation_bound"],
            "training_seconds": round(sum(history["seconds"]), 1),
            "parameters": sum(t.numel() for name, t in tensors.items() if name.startswith("parameters/")),
        }
    results = folder / run_folder.RESULTS
    if results.exists():
        try:
            content["results"] = json.loads(results.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"run: {results} cannot be read: {error}") from None
    content["files"] = sorted(path.name for path in folder.iterdir() if path.is_file())
    return content


def lines(content: dict[str, Any]) -> list[str]:
    """Return the description as lines for a terminal."""
    data, options = content["data"], content["options"]
    sizes = " / ".join(f"{size:,}" for size in data["sizes"])
    made = [
        f"run       {content['folder']}",
        f"data      {data['name']}, {sizes} (train / validation / test): {data['source']}",
        f"noise     {options['noise_kind']} {options['noise']:g} ({options['noise_schedule']})",
        f"bound     {options['bound']}, M = {options['corruptions']}, K = {options['particles']}",
        (
            f"network   {_layers(options, 'encoder', 'hidden_layers')}, latent {options['latent_size']}, "
            f"{_layers(options, 'decoder', 'decoder_layers')}, {options['activation']}, "
            f"{options['likelihood']}"
        ),
    ]
    progress = content["progress"]
    if progress is None:
        made.append("progress  no checkpoint yet")
    else:
        best = progress["best_epoch"]
        validation = progress["best_validation_bound"]
        shown = f"; best epoch {best}, validation {validation:.2f} nats" if best else ""
        done = f"{progress['epochs_done']} of {progress['epochs']} epochs"
        made.append(f"progress  {done}, {progress['training_seconds']:.0f} s{shown}")
        made.append(f"weights   {progress['parameters']:,}")
    for name in ("test_bound", "importance_weighted_bound"):
        figure = (content["results"] or {}).get(name)
        if figure:
            label = name.replace("_", " ")
            made.append(f"result    {label} {figure['mean']:.2f} ± {figure['standard_error']:.2f} nats")
    made.append(f"files     {', '.join(content['files'])}")
    return made


def _layers(options: dict[str, Any], part: str, layers: str) -> str:
    kind = options.get(part, "mlp")  # an older run does not say
    return f"{part}{'' if kind == 'mlp' else ' ' + kind} {options[layers]} x {options['width']}"
