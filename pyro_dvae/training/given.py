"""What the front doors of training are given beside their options: rows, and arguments of the programs."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from pyro_dvae.errors import InputError
from pyro_dvae.rows import Data, Stream, opened

Program = Callable[..., Any]


def opened_rows(
    values: Sequence[Any], validation: Any, floats: torch.dtype
) -> tuple[Data | Stream, Data | None]:
    """Return the training rows, or the batches of a loader, and the held-out rows.

    :param values: the data arguments.
    :param validation: the same parts, as a tuple where there are several; None for none.
    :param floats: the type of real numbers that are in no tensor.
    """
    train: Data | Stream | None = None
    if len(values) == 1 and not isinstance(values[0], Data):
        first = opened("data", values[0], floats)
        train = first if isinstance(first, Stream) else Data((first,))
    held_out = None
    if validation is not None:
        parts = validation if isinstance(validation, tuple) else (validation,)
        held_out = Data.opened("validation", parts, floats=floats)
    return train or Data.opened("data", values, floats=floats), held_out


def options_of(front_door: Callable[..., Any]) -> list[str]:
    """Return the names of the options of a function or class."""
    found = inspect.signature(front_door).parameters.values()
    return [each.name for each in found if each.kind is inspect.Parameter.KEYWORD_ONLY]


def with_constants(
    constants: Mapping[str, Any], model: Program, guide: Program, options: Sequence[str]
) -> tuple[Program, Program]:
    """Return model and guide with keyword arguments that are passed whole to every call.

    :param options: of the front door, to name the nearest in a message.
    :raises InputError: a program takes no argument of such a name.
    """
    if not constants:
        return model, guide
    for name in constants:
        if not (_takes(model, name) and _takes(guide, name)):
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{name}: neither an option, nor an argument of both model and guide{hint}")
    return partial(model, **constants), partial(guide, **constants)


def _takes(program: Program, name: str) -> bool:
    """Whether a program can be called with a keyword argument of this name."""
    called = program.forward if isinstance(program, torch.nn.Module) else program
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # of a builtin: its call will tell
        return True
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    open_end = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return open_end or (name in parameters and parameters[name].kind in by_keyword)
