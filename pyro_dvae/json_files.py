"""Reading JSON that anyone may have written: its structure is checked against a schema before it is used.

A schema is a type (``float`` takes whole numbers too; ``dict`` and ``list`` any content), None, a tuple of
alternatives, ``[schema]`` for a list of such values, or ``{name: schema}``: names ending in "?" may be
missing, and names that the schema does not know are left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.files import irregular

_LARGEST = 2**63


def read_json(argument: str, path: Path, schema: Any) -> Any:
    """Return the content of a JSON file.

    :param argument: what the error begins with.
    :raises InputError: the file cannot be read, is no JSON, or does not fit ``schema``.
    :raises FileNotFoundError: there is no such file.
    """
    if kind := irregular(path):
        raise InputError(f"{argument}: {path} cannot be read: it is {kind}, expected a file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{argument}: {path} cannot be read: {reason}") from None
    return parsed(argument, text, schema, str(path))


def parsed(argument: str, text: str, schema: Any, where: str) -> Any:
    """Return the content of JSON ``text``; ``where`` it stands is named in the error."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise InputError(f"{argument}: {where} cannot be read: it is nested too deeply") from None
    except ValueError as error:  # also of integers of thousands of digits
        reason = str(error).partition(";")[0]
        raise InputError(f"{argument}: {where} cannot be read as JSON: {reason}") from None
    if fault := unfit(content, schema):
        raise InputError(f"{argument}: {where} was not written by this program: {fault}")
    return content


def unfit(value: Any, schema: Any, name: str = "") -> str | None:
    """Return the first thing in ``value`` that does not fit ``schema``, in words; None if all does."""
    if isinstance(schema, tuple):
        faults = [unfit(value, each, name) for each in schema]
        return None if None in faults else _expected(name, schema, value)
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return _expected(name, dict, value)
        for key, inner in schema.items():
            known = key.removesuffix("?")
            if known not in value:
                if known == key:
                    return f"{_inside(name, key)} is missing"
            elif fault := unfit(value[known], inner, _inside(name, known)):
                return fault
        return None
    if isinstance(schema, list):
        if not isinstance(value, list):
            return _expected(name, list, value)
        faults = [unfit(each, schema[0], f"{name}[{index}]") for index, each in enumerate(value)]
        return next(filter(None, faults), None)
    return None if _is(value, schema) else _expected(name, schema, value)


def _is(value: Any, kind: type | None) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and kind in (int, float):
        return abs(value) < _LARGEST
    return isinstance(value, kind)


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _expected(name: str, schema: Any, value: Any) -> str:
    kinds = schema if isinstance(schema, tuple) else (schema,)
    words = " or ".join("null" if kind is None else getattr(kind, "__name__", "a record") for kind in kinds)
    shown = repr(value) if not isinstance(value, int) or abs(value) < _LARGEST else "a huge number"
    return (
        f"{name or 'the content'}: expected {words}, got {shown if len(shown) <= 60 else shown[:57] + '...'}"
    )
