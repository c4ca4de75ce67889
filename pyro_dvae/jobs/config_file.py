"""``--config FILE``: reads options of a training run from a file, and writes options as TOML.

Importing this module does not import torch, so ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import typing
from functools import partial
from pathlib import Path
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.files import parsed, read_text, user_path
from pyro_dvae.jobs.options import Options, flag_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_RECORD = ("options", "data", "versions")  # in config.json of a run


def read(file: str) -> dict[str, Any]:
    """Return the options in a TOML or JSON file, such as the ``config.json`` of a run.

    Names are those of the command line or of :class:`Options`, with ``-`` or ``_``.

    :raises InputError: it cannot be read, or holds an unknown name, an option twice, or a value of another
        type.
    """
    path = user_path("config", file)
    try:
        text = read_text("config", path).removeprefix("\ufeff")  # some editors of Windows write this mark
    except FileNotFoundError:
        raise InputError(f"config: there is no file {path}") from None
    if text.lstrip().startswith("{"):
        content = parsed("config", text, dict, str(path), partial(_once, path))
    else:
        try:
            content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"config: {path} cannot be read as TOML: {error}") from None
    given = list(content.items())
    if isinstance(content.get("options"), dict):
        given = [*content["options"].items(), *(each for each in given if each[0] not in _RECORD)]
    named: dict[str, Any] = {}
    names = _names()
    for written, value in given:
        name = str(written).replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0)
            raise InputError(f"config: {path} has the unknown option {name!r}; the nearest is {near[0]!r}")
        if name.startswith("no_") and isinstance(value, bool):
            value = not value
        if names[name] in named:
            raise InputError(f"config: {path} has the option {names[name]!r} twice; leave one of them out")
        named[names[name]] = _as_typed(names[name], value)
    options = Options.from_dict(Options().as_dict() | named)
    return {name: getattr(options, name) for name in named}


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a record of JSON, whose names must differ, as TOML requires."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(each for index, (each, _) in enumerate(pairs) if each in dict(pairs[:index]))
        raise InputError(f"config: {path} has the option {name!r} twice; leave one of them out")
    return found


def _names() -> dict[str, str]:
    """Return the options by their own names and by those of their flags (``compile`` means ``compiled``)."""
    found: dict[str, str] = {}
    for each in dataclasses.fields(Options):
        flags = flag_of(each).split("/")
        found |= {flag.removeprefix("--").replace("-", "_"): each.name for flag in (each.name, *flags)}
    return found


def _as_typed(name: str, value: Any) -> Any:
    """Return a number as the text that the command line has, if the option takes text."""
    kind = typing.get_type_hints(Options)[name]
    takes_text = str in (typing.get_args(kind) or (kind,))
    return str(value) if takes_text and type(value) in (int, float) else value


def toml(options: dict[str, Any]) -> str:
    """Return options as TOML for :func:`read`, without options that are not set."""
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in options.items()
        if value is not None
    ]
    return "\n".join(lines)
