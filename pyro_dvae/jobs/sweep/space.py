"""The search space of a sweep: ranges and choices of training options, as in ``noise=0:0.3``."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.jobs.options import COUNTS, Options
from pyro_dvae.jobs.parts import build_clean_bound

SYNTAX = "NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=CHOICE,CHOICE,..."
# They affect the data or the machine, so that bounds of trials could not be compared.
_FIXED = (
    *("dataset", "data_folder", "scale", "columns", "drop", "label_column", "id_column", "array", "kinds"),
    *("binarisation", "seed", "device", "compiled", "importance_samples"),
)
# Likelihoods on the same support: densities, or probabilities of the same values.
_COMPARABLE = (
    {
        *("gaussian", "gaussian-per-pixel", "gaussian-columns", "continuous-bernoulli"),
        *("full-covariance", "low-rank-covariance"),
    },
    {"discretised-logistic", "discretised-logistic-mixture"},
    set(COUNTS) - {"multinomial", "dirichlet-multinomial"},
    {"multinomial", "dirichlet-multinomial"},  # given the total
)


@dataclass(frozen=True)
class Dimension:
    """One option of the search.

    :param name: name in :class:`~pyro_dvae.jobs.options.Options`.
    :param low: lower end of a range.
    :param high: upper end, included.
    :param log: whether the range is searched on a logarithmic scale.
    :param choices: choices instead of a range.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The ends of the range, or the choices."""
        return self.choices or (self.low, self.high)

    def suggested(self, trial: Any) -> Any:
        """Return a trial's value, which is suggested only once."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        suggest = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return suggest(self.name, self.low, self.high, log=self.log)


def parsed(texts: Sequence[str], given: frozenset[str] = frozenset()) -> tuple[Dimension, ...]:
    """Return the dimensions of a search.

    :param texts: each ``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:log`` or ``NAME=CHOICE,CHOICE,...`` with an option's
        name on the command line. A range between whole numbers contains whole numbers.
    :param given: options with a given value.
    :raises InputError: a text does not have this form, or its option cannot be searched.
    """
    if not texts:
        raise InputError(f"search: expected {SYNTAX}, got nothing to search")
    found: dict[str, Dimension] = {}
    for text in texts:
        dimension = _dimension(text)
        if dimension.name in found:
            raise InputError(f"search: {dimension.name} is searched twice; join its choices or its ranges")
        if dimension.name in given:
            raise InputError(f"search: {dimension.name} is also given as an option; leave one of them out")
        found[dimension.name] = dimension
    return tuple(found.values())


def changing_validation(options: Options, space: Sequence[Dimension]) -> str | None:
    """Return the searched options by which trials differ in their validation bound, in words, or None.

    Such bounds are not comparable: one with K importance-weighted draws is larger than one with fewer.
    """
    ends = {each.name: each.ends for each in space if each.name in ("bound", "particles")}
    trials = [
        dataclasses.replace(options, **dict(zip(ends, values, strict=True)))
        for values in itertools.product(*ends.values())
    ]
    bounds = [build_clean_bound(each) for each in trials]
    kinds = {(type(each), each.num_particles) for each in bounds}
    return " and ".join(ends) if len(kinds) > 1 else None


def _dimension(text: str) -> Dimension:
    left, equals, right = text.partition("=")
    if not equals or not left or not right:
        raise InputError(f"search: expected {SYNTAX}, got {text!r}")
    names = [each.name.replace("_", "-") for each in dataclasses.fields(Options)]
    name = checks.known("search", left.replace("_", "-"), names).replace("-", "_")
    if name in _FIXED:
        raise InputError(
            f"search: {left} changes the data or the device, so trials would not be comparable; leave it out"
        )
    if ":" not in right:
        choices = tuple(_value(name, each, text) for each in right.split(","))
        if len(set(choices)) < len(choices):
            raise InputError(f"search: expected different choices, got {text!r}")
        if (
            name == "likelihood"
            and len(choices) > 1
            and not any(set(choices) <= each for each in _COMPARABLE)
        ):
            raise InputError(
                f"search: bounds of {', '.join(choices)} are not comparable; search only densities, or only "
                "probabilities of the same values"
            )
        return Dimension(name, choices=choices)
    low, high, *scale = right.split(":")
    if scale not in ([], ["log"]):
        raise InputError(f"search: expected {SYNTAX}, got {text!r}")
    ends = [_value(name, each, text) for each in (low, high)]
    if any(isinstance(each, (bool, str)) for each in ends):
        raise InputError(
            f"search: {left} is not a number; expected choices NAME=CHOICE,CHOICE,..., got {text!r}"
        )
    if not ends[0] < ends[1]:
        raise InputError(f"search: expected a range from a lower to a higher number, got {text!r}")
    if scale and ends[0] <= 0:
        raise InputError(f"search: expected a logarithmic range above 0, got {text!r}")
    return Dimension(name, ends[0], ends[1], bool(scale))


def _value(name: str, text: str, whole: str) -> Any:
    """Return a value of an option from its text."""
    hint = typing.get_type_hints(Options)[name]
    kind = next(each for each in (typing.get_args(hint) or (hint,)) if each is not type(None))
    field = next(each for each in dataclasses.fields(Options) if each.name == name)
    allowed = getattr(field.metadata["click"].get("type"), "choices", None)
    if allowed is not None:
        return checks.known(f"search: {name}", text, allowed)
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"search: expected true or false for {name}, got {whole!r}")
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not text or (kind is not str and not math.isfinite(value)):
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"search: expected {what} for {name}, got {whole!r}")
    return value
