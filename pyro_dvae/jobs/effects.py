"""Options that have an effect only with some values of another option."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.jobs.options import EvaluationOptions, Options, flag_of


def require_effect(
    options: Options | EvaluationOptions,
    names: Collection[str],
    searched: Mapping[str, Sequence[Any]] | None = None,
    of: Collection[str] | None = None,
) -> None:
    """Refuse an option without effect, because the option that it belongs to has another value.

    :param names: the options to check.
    :param searched: values of the options that a sweep searches.
    :param of: check only options that belong to one of these; by default all.
    :raises InputError: one of these options has no effect.
    """
    fields = {each.name: each for each in dataclasses.fields(options)}
    possible = {name: (getattr(options, name),) for name in fields} | dict(searched or {})
    for name, entry in fields.items():
        other, values = entry.metadata["only_with"] or (name, possible[name])
        checked = name in names and (of is None or other in of)
        changed = checked and any(value != entry.default for value in possible[name])
        if changed and not any(value in values for value in possible[other]):
            flag = flag_of(fields[other]).split("/")[0]
            needed = [flag if value is True else f"{flag} {value}" for value in values if value is not None]
            raise InputError(f"{name}: it has no effect without {' or '.join(needed)}")
