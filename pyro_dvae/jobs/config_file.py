"""``--config FILE``: reads options of a training run from a file, and writes options as TOML.

Importing this module does not import torch, so ``--help`` is quick.
"""

from __future__ import annotations

import difflib
import json
import sys
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.files import parsed, read_text, user_path
from pyro_dvae.jobs.options import Options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(file: str) -> dict[str, Any]:
    """Return the options in a TOML or JSON file, such as the ``config.json`` of a run.

    :raises InputError: it cannot be read, or holds an unknown name or a value of another type.
    """
    path = user_path("config", file)
    try:
        text = read_text("config", path)
    except FileNotFoundError:
        raise InputError(f"config: there is no file {path}") from None
    if text.lstrip().startswith("{"):
        content = parsed("config", text, dict, str(path))
    else:
        try:
            content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"config: {path} cannot be read as TOML: {error}") from None
    values = content["options"] if isinstance(content.get("options"), dict) else content
    named = {str(name).replace("-", "_"): value for name, value in values.items()}
    known = Options().as_dict()
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise InputError(f"config: {path} has the unknown option {name!r}; the nearest is {near[0]!r}")
    return {name: Options.from_dict(known | named).as_dict()[name] for name in named}


def toml(options: dict[str, Any]) -> str:
    """Return options as TOML for :func:`read`, without options that are not set."""
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in options.items()
        if value is not None
    ]
    return "\n".join(lines)
