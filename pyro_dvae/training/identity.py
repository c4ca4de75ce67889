"""What identifies functions and objects in a checkpoint: names and plain values, without memory addresses."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyro.infer import ELBO

from pyro_dvae.levels import Schedule

# Arguments of bounds that do not affect their value.
_OF_NO_EFFECT = {
    *("max_plate_nesting", "vectorize_particles", "strict_enumeration_warning"),
    *("ignore_jit_warnings", "jit_options", "retain_graph"),
}


def described(value: Any) -> Any:
    """Return JSON-able values that identify ``value``.

    Functions are identified by their names, schedules and dataclasses by their contents, other objects by
    their classes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [described(each) for each in value]
    if isinstance(value, partial):
        return {"function": described(value.func), "arguments": described([value.args, value.keywords])}
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    content: dict[str, Any] = {}
    if named is not value and dataclasses.is_dataclass(value):
        content = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    elif isinstance(value, Schedule):
        content = vars(value)
    return {"kind": name, **described(content)} if content else name


def described_bound(bound: ELBO) -> dict[str, Any]:
    """Return the class of a bound, and its arguments that affect its value, as at the first epoch."""
    bound = copy.copy(bound)
    if callable(set_epoch := getattr(bound, "set_epoch", None)):
        set_epoch(0)
    kind, own = type(bound), vars(bound)
    constructors = (vars(each).get("__init__") for each in kind.__mro__)
    names = {name for each in constructors if each for name in inspect.signature(each).parameters}
    found = {name: own[name] for name in sorted(names & own.keys() - _OF_NO_EFFECT)}
    found |= {name: value for name, value in sorted(own.items()) if isinstance(value, Schedule)}
    return {"kind": f"{kind.__module__}.{kind.__qualname__}", **described(found)}
