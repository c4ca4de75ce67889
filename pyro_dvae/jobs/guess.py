"""Defaults that depend on the size and values of the data; the choices are reported."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from pyro_dvae.datasets import Dataset, is_own
from pyro_dvae.jobs.effects import require_effect
from pyro_dvae.jobs.options import COUNTS, Options

# Options that are chosen unless given; a command must contain them to repeat a run exactly.
BY_SIZE = ("epochs", "validate_every")
BY_VALUES = ("likelihood", "binarisation", "noise_kind")


_STEPS = 25_000  # 50 epochs of MNIST
_ROWS = 100 * _STEPS
_EPOCHS_AT_MOST = 2000
_VALIDATIONS_AT_MOST = 250


def left_to_data(options: Options, given: frozenset[str]) -> frozenset[str]:
    """Return the names of the options that a new run chooses from its data.

    :param given: names of the given options.
    """
    of_values = _left_to_values(options, given) if _of_file(options) else frozenset()
    return _left_to_size(options, given) | of_values


def _left_to_size(options: Options, given: frozenset[str]) -> frozenset[str]:
    free = frozenset(
        name for name in BY_SIZE if name not in given and getattr(options, name) == getattr(Options, name)
    )
    return free if "epochs" in free else frozenset()


def _left_to_values(options: Options, given: frozenset[str]) -> frozenset[str]:
    asked = given - {"likelihood"} if options.likelihood == "auto" else given
    return frozenset(BY_VALUES) - asked


def _of_file(options: Options) -> bool:
    return options.dataset is not None and is_own(options.dataset)


def by_size(options: Options, given: frozenset[str], data: Dataset, stored: dict[str, Any] | None) -> Options:
    """Return the options with a number of epochs that trains as long on these data as the default on MNIST.

    Given epochs do not change, nor those of a script or of a resumed run.

    :param given: names of the given options.
    :param stored: content of ``config.json`` of a resumed run.
    """
    free = _left_to_size(options, given)
    if stored is not None or "epochs" not in free:
        return options
    rows = len(data.train)
    steps = math.ceil(rows / options.batch_size)
    epochs = max(1, min(_STEPS // steps, _ROWS // rows, _EPOCHS_AT_MOST))
    chosen: dict[str, Any] = {"epochs": epochs}
    if "validate_every" in free:
        chosen["validate_every"] = math.ceil(epochs / _VALIDATIONS_AT_MOST)
    return dataclasses.replace(options, **chosen)


def by_values(
    options: Options, given: frozenset[str], data: Dataset, stored: dict[str, Any] | None
) -> tuple[Options, list[str]]:
    """Return the options with a likelihood, a binarisation and a noise that fit a file, and what to tell.

    Given options do not change, nor those of a named data set or of a resumed run.

    :param given: names of the given options.
    :param stored: content of ``config.json`` of a resumed run.
    """
    if stored is not None or not _of_file(options):
        likelihood = "bernoulli" if options.likelihood == "auto" else options.likelihood
        return dataclasses.replace(options, likelihood=likelihood), []
    return fitting(options, given, data)


def fitting(options: Options, given: frozenset[str], data: Dataset) -> tuple[Options, list[str]]:
    """Return the options, with those that are not given chosen from ``data``, and messages about them.

    :raises InputError: a given option has no effect with a chosen one.
    """
    free = _left_to_values(options, given)
    chosen: dict[str, Any] = {}
    if "binarisation" in free:
        chosen["binarisation"] = "none"
    binarised = chosen.get("binarisation", options.binarisation) != "none"
    low = min(float(part.min()) for part in (data.train, data.validation, data.test))
    high = max(float(part.max()) for part in (data.train, data.validation, data.test))
    within = low >= 0 and high <= 1
    if "likelihood" in free:
        chosen["likelihood"] = _likelihood(data, binarised, within)
    if "noise_kind" in free and chosen.get("likelihood", options.likelihood) == "table":
        chosen["noise_kind"] = "swap"
    elif "noise_kind" in free and chosen.get("likelihood", options.likelihood) in COUNTS:
        chosen["noise_kind"] = "thinning"
    elif "noise_kind" in free and not within:
        chosen["noise_kind"] = "masking"
    told = [f"{name.replace('_', '-')} {value}" for name, value in chosen.items()]
    lines = [f"chosen by the values, from {low:g} to {high:g}: {', '.join(told)}"] if told else []
    found = dataclasses.replace(options, **chosen)
    require_effect(found, given, of=chosen.keys())
    return found, lines


def _likelihood(data: Dataset, binarised: bool, within: bool) -> str:
    """Return a likelihood for the values of ``data``; ``within`` says whether all are in [0, 1]."""
    kinds = set() if data.columns is None else {each.kind for each in data.columns.columns}
    if not binarised and kinds & {"category", "count", "ordinal", "positive", "heavy-tailed"}:
        return "table"
    if data.binary or binarised:
        return "bernoulli"
    whole = all(bool((part == part.round()).all()) for part in (data.train, data.validation, data.test))
    if whole and not within and min(float(part.min()) for part in (data.train, data.test)) >= 0:
        return "negative-binomial"  # --scale none of whole numbers
    if "binary" in kinds:
        return "table"
    return "continuous-bernoulli" if within else "gaussian-columns"
