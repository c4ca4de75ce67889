"""The data of a run, loaded and binarised with its seed, for training and evaluation alike."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

import pyro_dvae
from pyro_dvae.datasets import Dataset, binarisation, binarise_dataset, is_own, load_dataset
from pyro_dvae.datasets.base import is_binary
from pyro_dvae.datasets.registry import is_file_name
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.evaluation.importance.tally import fingerprint
from pyro_dvae.jobs.options import Options
from pyro_dvae.rows import InMemory


@dataclass(frozen=True)
class RunData:
    """A data set whose parts are prepared by the options of a run, on its device.

    :param dataset: the loaded data set.
    :param train: training part, [N, D]; pass batches of all parts through ``visit``.
    :param validation: validation part, binarised once.
    :param test: test part, binarised once.
    :param visit: returns the model's input for a prepared batch.
    """

    dataset: Dataset
    train: Tensor
    validation: Tensor
    test: Tensor
    visit: Callable[[Tensor], Tensor]


def prepare(dataset: Dataset, options: Options, device: torch.device) -> RunData:
    """Binarise the parts of ``dataset`` by the options, with a stream that depends only on their seed."""
    parts = binarise_dataset(dataset, options.binarisation, options.seed)
    train, validation, test = (part.to(device) for part in parts)
    return RunData(dataset, train, validation, test, binarisation(options.binarisation).visit)


def described(dataset: Dataset) -> dict[str, Any]:
    """Return the description of a data set in ``config.json``."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "substituted_for": dataset.substituted_for,
        "dimension": dataset.dimension,
        "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
        "sizes": [len(dataset.train), len(dataset.validation), len(dataset.test)],
        "mean_total": float(dataset.train.double().nansum(1).mean()),
        "offset": dataset.offset,
        "factor": dataset.factor,
        "limits": None if dataset.image_shape is None else list(dataset.limits),
    } | ({} if dataset.columns is None else {"columns": dataset.columns.as_list()})


def of_file(options: Options) -> dict[str, Any]:
    """Return the options for a user's own file as arguments of ``load_dataset``."""

    def names(text: str | None) -> list[str] | None:
        return None if text is None else [name.strip() for name in text.split(",") if name.strip()]

    return {
        "scale": options.scale,
        "columns": names(options.columns),
        "drop": names(options.drop) or (),
        "label_column": options.label_column,
        "id_column": options.id_column,
        "array": options.array,
        "kinds": kinds_of(options.kinds),
    }


def load_of(options: Options) -> Dataset:
    """Return the data set of a new run, by its options."""
    return load_dataset(options.dataset, options.data_folder, **of_file(options))


def load_of_run(options: Options, name: str, folder: str) -> Dataset:
    """Return the data set of an earlier run, whose own file may have moved."""
    try:
        return load_dataset(name, folder, **of_file(options))
    except DataError as error:
        if is_file_name(name) and not Path(name).exists():
            raise DataError(f"{error}; if it has moved, give its place as the data set (--dataset)") from None
        raise


def digest_of_own(options: Options, dataset: Dataset | None = None) -> str | None:
    """Return a digest of all values of the user's own data, which may change; None for a named data set.

    :param dataset: the data set of the options; loaded by default.
    """
    if options.dataset is None or not is_own(options.dataset):
        return None
    return _digest(load_of(options) if dataset is None else dataset)


def _digest(dataset: Dataset) -> str:
    return fingerprint([dataset.train, dataset.validation, dataset.test])


def kinds_of(text: str | None) -> dict[str, str] | None:
    """Parse kinds of columns by name, such as ``"income=positive, visits=count"``."""
    pairs = [each.partition("=") for each in (text or "").split(",") if each.strip()]
    if odd := [name for name, sign, kind in pairs if not (name.strip() and sign and kind.strip())]:
        raise InputError(f"kinds: expected NAME=KIND, separated by commas, got {odd[0].strip()!r}")
    return {name.strip(): kind.strip() for name, _, kind in pairs} or None


def versions() -> dict[str, str]:
    """Return the software versions, for the record of a run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": np.__version__,
        "pyro_dvae": pyro_dvae.__version__,
    }


def require_same_data(expected: dict[str, Any], dataset: Dataset) -> None:
    """Refuse a data set other than the one in ``config.json``."""
    found = described(dataset)
    for name in ("name", "dimension", "image_shape", "sizes", "columns", "offset", "factor"):
        if found.get(name) != expected.get(name):
            raise DataError(
                f"data: {name} was {expected[name]} in the run of {expected['name']}, is now {found[name]}"
            )
    if "digest" in expected and expected["digest"] != _digest(dataset):
        raise _other_values(dataset)


def require_same_values(dataset: Dataset, train: Tensor, trained: Any) -> None:
    """Refuse training data other than a run's, by the fingerprint in its checkpoint."""
    (now,) = InMemory(train).fingerprints()
    if trained is not None and trained != now:
        raise _other_values(dataset)


def _other_values(dataset: Dataset) -> DataError:
    return DataError(f"data: {dataset.name} has the size of the run's data, but different values")


def load_again(
    config: dict[str, Any],
    options: Options,
    data_folder: str | None,
    device: torch.device,
    trained: Any,
    name: str | None = None,
) -> RunData:
    """Return the data of a finished run; refuse other data.

    A substitute data set is loaded by its own name.

    :param config: content of ``config.json``.
    :param options: options of the run.
    :param data_folder: current folder of the data; None for the run's folder.
    :param trained: fingerprint of the training part, from the checkpoint.
    :param name: name of the data set, or current path of its file; None for the run's name.
    :raises DataError: the data are not available, or differ from those of the run.
    """
    expected = config["data"]
    folder = options.data_folder if data_folder is None else data_folder
    dataset = load_of_run(options, name or options.dataset or expected["name"], folder)
    require_same_data(expected, dataset)
    prepared = prepare(dataset, options, device)
    require_same_values(dataset, prepared.train, trained)
    return prepared


def log_p_of(options: Options, discrete: bool, x: Tensor) -> str:
    """Return what log p(x) is the logarithm of: ``"probability"``, ``"density"`` or ``"none"`` of the two.

    Grey values under a Bernoulli decoder have a cross-entropy, which is not a density.

    :param discrete: whether the decoder has probabilities of discrete values.
    :param x: rows of the model, [N, D].
    """
    if options.likelihood == "bernoulli" and not is_binary(x):
        return "none"
    return "probability" if discrete else "density"


def grid_of(values: Tensor) -> int | None:
    """Return the least n up to 256 such that all ``values`` are in [0, 1] and multiples of 1/n, or None."""
    distinct = values.double().unique()
    if len(distinct) > 257 or float(distinct[0]) < 0 or float(distinct[-1]) > 1:
        return None
    for count in range(1, 257):
        scaled = distinct * count
        if bool(((scaled - scaled.round()).abs() < 1e-4).all()):  # the error of k/255 in float32 is 1.5e-5
            return count
    return None
