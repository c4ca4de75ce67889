"""What a run does with data of one's own where nobody said it: chosen by its values, and told."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyro_dvae.datasets import Dataset, is_own
from pyro_dvae.jobs.options import Options

_OF_COUNTS = ("poisson", "negative-binomial", "multinomial", "dirichlet-multinomial")


def by_values(
    options: Options, given: frozenset[str], data: Dataset, stored: dict[str, Any] | None
) -> tuple[Options, list[str]]:
    """Return the options with a likelihood, a binarisation and a noise that fit a file, and what to tell.

    Options that were given stay. So do all of a named data set, and of a resumed run, which has its own.

    :param given: names of the options that were given.
    :param stored: content of ``config.json`` of a resumed run.
    """
    of_file = options.dataset is not None and is_own(options.dataset)
    if stored is not None or not of_file:
        likelihood = "bernoulli" if options.likelihood == "auto" else options.likelihood
        return dataclasses.replace(options, likelihood=likelihood), []
    asked = given - {"likelihood"} if options.likelihood == "auto" else given
    chosen: dict[str, Any] = {}
    if "binarisation" not in asked:
        chosen["binarisation"] = "none"
    binarised = chosen.get("binarisation", options.binarisation) != "none"
    low = min(float(part.min()) for part in (data.train, data.validation, data.test))
    high = max(float(part.max()) for part in (data.train, data.validation, data.test))
    within = low >= 0 and high <= 1
    if "likelihood" not in asked:
        chosen["likelihood"] = _likelihood(data, binarised, within)
    if "noise_kind" not in asked and chosen.get("likelihood", options.likelihood) == "table":
        chosen["noise_kind"] = "swap"
    elif "noise_kind" not in asked and chosen.get("likelihood", options.likelihood) in _OF_COUNTS:
        chosen["noise_kind"] = "thinning"
    elif "noise_kind" not in asked and not within:
        chosen["noise_kind"] = "masking"
    told = [f"{name.replace('_', '-')} {value}" for name, value in chosen.items()]
    lines = [f"chosen by the values, from {low:g} to {high:g}: {', '.join(told)}"] if told else []
    return dataclasses.replace(options, **chosen), lines


def _likelihood(data: Dataset, binarised: bool, within: bool) -> str:
    """:param within: whether all values are in [0, 1]."""
    if data.binary or binarised:
        return "bernoulli"
    whole = all(bool((part == part.round()).all()) for part in (data.train, data.validation, data.test))
    if whole and not within and min(float(part.min()) for part in (data.train, data.test)) >= 0:
        return "negative-binomial"  # --scale none of whole numbers
    if data.columns is not None and any(each.kind in ("binary", "category") for each in data.columns.columns):
        return "table"
    return "continuous-bernoulli" if within else "gaussian-columns"
