"""What lies in a run folder, and how to read a model back from it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from pyro.params.param_store import param_with_module_name

from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.files import unwritable, write_atomically
from pyro_dvae.models import DVAE
from pyro_dvae.options import Options
from pyro_dvae.runs.build import build_corruption
from pyro_dvae.runs.networks import build_decoder, build_encoder
from pyro_dvae.training.checkpoint import load_parameters

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
RESULTS = "results.json"


def new_folder(output: str | None, stem: str) -> Path:
    """Return the folder of a new run, made if need be; one that holds a run already is refused.

    Without ``output`` it is the first free of ``runs/<stem>``, ``runs/<stem>-2``, ...
    """
    if output is None:
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        folder = next(path for path in (Path("runs") / name for name in names) if not path.exists())
    else:
        folder = Path(output).expanduser()
        if (folder / CONFIG).exists() or (folder / CHECKPOINT).exists():
            raise InputError(
                f"output: {folder} already holds a run; go on with --resume {folder}, or name another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``config.json`` of a run folder."""
    path = Path(folder).expanduser() / CONFIG
    if not path.parent.is_dir():
        raise InputError(f"run: no folder {path.parent}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"run: {path.parent} holds no {CONFIG}, so it is not a run folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"run: {path} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("options"), dict) or "data" not in config:
        raise InputError(f"run: {path} is not the configuration of a run")
    return config


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, in place of the file whole."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_run(folder: str | Path, which: str = "best") -> tuple[DVAE, dict[str, Any]]:
    """Rebuild the model of a run with its best (or last) weights; return it and the configuration."""
    folder = Path(folder).expanduser()
    config = read_config(folder)
    options = Options.from_dict(config["options"])
    shape = (config["data"]["dimension"], tuple(config["data"]["image_shape"]))
    dvae = DVAE(build_encoder(options, *shape), build_decoder(options, *shape), build_corruption(options))
    saved = load_parameters(folder / CHECKPOINT, which)
    parts = {"encoder": dvae.guide.encoder, "decoder": dvae.model.decoder, "x_tilde": dvae.guide.corruption}
    wanted = {
        param_with_module_name(part, name): parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }
    if odd := sorted(set(saved) ^ set(wanted)):
        raise CheckpointError(
            f"checkpoint {folder / CHECKPOINT}: does not fit {CONFIG}: parameter {odd[0]!r}"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            if saved[name].shape != parameter.shape:
                raise CheckpointError(
                    f"checkpoint {folder / CHECKPOINT}: {name!r} has shape {tuple(saved[name].shape)}, "
                    f"{CONFIG} means {tuple(parameter.shape)}"
                )
            parameter.copy_(saved[name])
    return dvae, config
