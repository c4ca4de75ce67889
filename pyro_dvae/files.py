"""Atomic writing of files, and reading of JSON with a schema.

A schema is a type (``float`` also accepts whole numbers; ``dict`` and ``list`` any content), None, a tuple of
alternatives, ``[schema]`` for a list of such values, or ``{name: schema}``, where names ending in "?" may be
missing, and unknown names are ignored.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyro_dvae
from pyro_dvae.errors import InputError, shown

_SUFFIX = ".partial"
_STALE_SECONDS = 3600.0
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def user_path(argument: str, value: Any) -> Path:
    """Return the path that a user gave, with ``~`` expanded; it need not exist.

    :raises InputError: it is empty, not a path, of an unknown user, or too long for the file system.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{argument}: expected a path, got {shown(value)}")
    try:
        path = Path(value).expanduser()
        if "\0" in str(path):
            raise ValueError("it holds a null character")
        with suppress(PermissionError):
            path.exists()
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
    ) as error:  # too long, no such user, a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{argument}: expected a path, got {shown(value)}: {reason}") from None
    return path


def irregular(path: str | os.PathLike[str]) -> str | None:
    """Return the kind of ``path`` if it is not a regular file ("a pipe"), so that reading may hang, or None.

    A path that does not exist, or is not accessible, also gives None: opening it will fail.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return next((name for test, name in _KINDS.items() if test(mode)), None)


def write_atomically(path: str | os.PathLike[str], data: bytes | str, *, make_folder: bool = True) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` atomically: it is always the old file or the new one."""
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, make_folder=make_folder) as partial:
        try:
            partial.write_bytes(content)
        except OSError as error:
            raise unwritable(path, error) from None


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Append ``text`` to a file as it is; after a full disk, its last line may be incomplete."""
    try:
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise unwritable(path, error) from None


@contextmanager
def replacing(path: str | os.PathLike[str], *, make_folder: bool = True) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it is flushed to disk and moved into place.

    If the body raises, its file is removed and ``path`` does not change. Missing folders are made unless
    ``make_folder`` is False. A later write removes files of killed processes that are an hour old.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        partial.touch(exist_ok=False)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield partial
        try:
            _flush(partial)
            os.replace(partial, target)
            _flush(target.parent)
        except OSError as error:
            raise unwritable(path, error) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _remove_partial(target, _STALE_SECONDS)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a ``path`` that cannot be written, without changing an existing file."""
    target = Path(path)
    probe = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error) from None


def remove_left_over(folder: Path, *names: str) -> None:
    """Remove partial files ``names`` of killed processes in ``folder``, to which no other process writes."""
    for name in names:
        _remove_partial(folder / name, 0.0)


def unwritable(path: str | os.PathLike[str], error: BaseException) -> InputError:
    """Return the one-line error for a ``path`` that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"output: cannot write {os.fspath(path)}: {reason}")


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_partial(target: Path, age: float) -> None:
    limit = time.time() - age
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f".{target.name}.") and entry.name.endswith(_SUFFIX):
                with suppress(OSError):
                    if entry.stat().st_mtime <= limit:
                        os.unlink(entry.path)


_LARGEST = 2**63


def read_json(argument: str, path: Path, schema: Any) -> Any:
    """Return the content of a JSON file.

    :param argument: the beginning of the error.
    :raises InputError: the file cannot be read, is not JSON, or does not match ``schema``.
    :raises FileNotFoundError: there is no such file.
    """
    return parsed(argument, read_text(argument, path), schema, str(path))


def read_text(argument: str, path: Path) -> str:
    """Return the content of a text file.

    :param argument: the beginning of the error.
    :raises InputError: the file cannot be read.
    :raises FileNotFoundError: there is no such file.
    """
    if kind := irregular(path):
        raise InputError(f"{argument}: {path} cannot be read: it is {kind}, expected a file")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{argument}: {path} cannot be read: {reason}") from None


def parsed(
    argument: str,
    text: str,
    schema: Any,
    where: str,
    record: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the content of JSON ``text``; an error names its place ``where``.

    :param record: makes a record from its names and values; by default a dictionary.
    """
    try:
        content = json.loads(text, object_pairs_hook=record)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{argument}: {where} cannot be read: it is nested too deeply") from None
    except ValueError as error:  # also for integers of thousands of digits
        reason = str(error).partition(";")[0]
        raise InputError(f"{argument}: {where} cannot be read as JSON: {reason}") from None
    if fault := unfit(content, schema):
        raise InputError(f"{argument}: {where} was {author(content)}: {fault}")
    return content


def author(content: Any) -> str:
    """Return the program that has written a record, as far as its ``versions`` tell, for a message."""
    versions = content.get("versions") if isinstance(content, dict) else None
    version = versions.get("pyro_dvae") if isinstance(versions, dict) else None
    if not isinstance(version, str):
        return "not written by this program"
    if version == pyro_dvae.__version__:
        return f"changed, or written by another state of pyro_dvae {version}"
    return f"written by pyro_dvae {version}, this is {pyro_dvae.__version__}"


def unfit(value: Any, schema: Any, name: str = "") -> str | None:
    """Describe the first part of ``value`` that does not match ``schema``, or return None."""
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
