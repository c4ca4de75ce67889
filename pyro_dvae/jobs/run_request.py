"""The options, data and configuration of a new or resumed run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pyro_dvae.datasets import Dataset, absolute_name, load_dataset
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.files import user_path
from pyro_dvae.jobs.data import described, digest_of_own, load_of, load_of_run, require_same_data, versions
from pyro_dvae.jobs.folder import options_of, read_config
from pyro_dvae.jobs.options import Options, TrainRequest

MAY_CHANGE = (
    *("epochs", "patience", "device", "data_folder", "dataset"),
    *("importance_samples", "compiled", "log"),
)
OF_A_FILE = ("scale", "columns", "drop", "label_column", "id_column", "array", "kinds")
_NOT_NAMED = {*MAY_CHANGE, *OF_A_FILE, "bound", "noise", "noise_kind", "seed", "validate_every"}


def options_and_folder(request: TrainRequest) -> tuple[Options, dict[str, Any] | None, Path | None]:
    """Return the options, and for a resumed run the content of its ``config.json`` and its folder."""
    if request.resume is None:
        return absolute(request.options), None, None
    if request.output is not None:
        raise InputError("output: a resumed run stays in its folder; give --resume or --output, not both")
    folder = user_path("resume", request.resume)
    config = read_config(folder)
    options = options_of(config)
    given = absolute(request.options)
    asked = {name: getattr(given, name) for name in request.given}
    fixed = sorted(
        name for name, value in asked.items() if name not in MAY_CHANGE and value != getattr(options, name)
    )
    if fixed:
        name = fixed[0]
        raise InputError(f"{name}: the run in {folder} has {getattr(options, name)!r}, got {asked[name]!r}")
    return dataclasses.replace(options, **asked), config, folder


def absolute(options: Options) -> Options:
    """Return the options with absolute paths."""
    dataset = options.dataset
    if dataset is not None:
        dataset = absolute_name(dataset)
    folder = str(user_path("data_folder", options.data_folder).absolute())
    return dataclasses.replace(options, dataset=dataset, data_folder=folder)


def load(options: Options, stored: dict[str, Any] | None) -> Dataset:
    """Load the data; if a resumed run used substitute data, load these."""
    if stored is None:
        return load_of(options)
    if options.dataset is not None:
        return load_of_run(options, options.dataset, options.data_folder)
    data = load_dataset(stored["data"]["name"], options.data_folder)
    return dataclasses.replace(data, substituted_for=stored["data"]["substituted_for"])


def check_range(options: Options, data: Dataset) -> None:
    """Refuse data on which the noise is not defined."""
    if (
        options.noise_kind == "bit-flip"
        and options.noise
        and not data.binary
        and options.binarisation == "none"
    ):
        raise DataError("noise_kind: bit-flip needs binary pixels; choose a --binarisation other than none")


def stem(options: Options, data: Dataset) -> str:
    """Return the name of a run folder without number: data, bound, noise, all non-default options, seed."""
    kind = "" if options.noise_kind == "salt-and-pepper" else f"{options.noise_kind}-"
    unusual = "".join(
        f"-{entry.name.replace('_', '-')}{_short(value)}"
        for entry in dataclasses.fields(options)
        if entry.name not in _NOT_NAMED and (value := getattr(options, entry.name)) != entry.default
    )
    name = f"{Path(data.name).stem}-{options.bound}-{kind}noise{options.noise:g}"
    return f"{(name + unusual)[:180]}-seed{options.seed}"


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "" if value else "-no"
    return f"{value:g}" if isinstance(value, int | float) else f"-{value}"


def config_of(options: Options, data: Dataset, stored: dict[str, Any] | None) -> dict[str, Any]:
    """Return the content of ``config.json``; for a resumed run, its own content with the changed options."""
    if stored is None:
        digest = digest_of_own(options, data)
        of_data = described(data) | ({} if digest is None else {"digest": digest})
        return {"options": options.as_dict(), "data": of_data, "versions": versions()}
    require_same_data(stored["data"], data)
    now, defaults = options.as_dict(), Options().as_dict()
    # Options that are newer than the run are left out, because its checkpoint does not have them.
    kept = {name: now[name] for name in now if name in stored["options"] or now[name] != defaults[name]}
    return stored | {"options": kept}
