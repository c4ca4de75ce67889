"""Writing files so that what was on disk is lost only when its replacement is complete."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_dvae.errors import InputError

_SUFFIX = ".partial"
_STALE_SECONDS = 3600.0


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, which is at any time the old file or the new one, whole."""
    content = data.encode() if isinstance(data, str) else data
    with replacing(path) as partial:
        try:
            partial.write_bytes(content)
        except OSError as error:
            raise unwritable(path, error) from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it is flushed to disk and moved into place.

    When the body raises, what it wrote is removed and ``path`` stays as it was. Missing folders are made.
    What a killed process left behind is removed by a later write once it is an hour old.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder")
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
    _remove_stale(target)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Refuse now a ``path`` that could not be written later; what is there stays untouched."""
    target = Path(path)
    probe = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error) from None


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


def _remove_stale(target: Path) -> None:
    limit = time.time() - _STALE_SECONDS
    with os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f".{target.name}.") and entry.name.endswith(_SUFFIX):
                with suppress(OSError):
                    if entry.stat().st_mtime < limit:
                        os.unlink(entry.path)
