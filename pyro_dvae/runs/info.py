"""What a run folder holds, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_dvae.files import user_path
from pyro_dvae.runs import folder as run_folder
from pyro_dvae.training.run_state import read_training


def describe(folder: str | Path) -> dict[str, Any]:
    """Return options, data, progress, results and files of a run folder, JSON-able.

    The checkpoint is read whole and its digests are checked.
    """
    folder = user_path("run", folder)
    config = run_folder.read_config(folder)
    options = run_folder.options_of(config).as_dict()
    content: dict[str, Any] = {"folder": str(folder), **config, "options": options, "progress": None}
    if (folder / run_folder.CHECKPOINT).exists():
        tensors, state = read_training(folder / run_folder.CHECKPOINT)
        history = state["history"]
        content["progress"] = {
            "epochs_done": state["epoch"],
            "epochs": config["options"]["epochs"],
            "best_epoch": history["best_epoch"],
            "best_validation_bound": history["best_validation_bound"],
            "training_seconds": round(sum(history["seconds"]), 1),
            "parameters": sum(t.numel() for name, t in tensors.items() if name.startswith("parameters/")),
        }
    content["results"] = run_folder.read_results(folder)
    content["files"] = sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."
    )
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
        made.append("progress  no checkpoint yet; --resume begins at the beginning")
    else:
        best = progress["best_epoch"]
        validation = progress["best_validation_bound"]
        found = best is not None and validation is not None
        shown = f"; best epoch {best}, validation {validation:.2f} nats" if found else ""
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
    kind = options[part]
    return f"{part}{'' if kind == 'mlp' else ' ' + kind} {options[layers]} x {options['width']}"
