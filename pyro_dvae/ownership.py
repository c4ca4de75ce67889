"""One writer of a folder or file, by a lock that ends with its process.

The operating system holds the lock, also between machines if their network file system has locks. A remaining
lock file means nothing. Reading needs no lock.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from pyro_dvae.errors import InputError
from pyro_dvae.files import require_writable, unwritable

LOCK = ".lock"


class OccupiedError(InputError):
    """Another process is writing to the file or folder."""


def own(argument: str, folder: Path) -> BaseFileLock:
    """Take the lock of an existing ``folder``; call ``release`` on the result, or end the process.

    :param argument: name of the option with the folder, for the error.
    :raises InputError: another owner has it, or it is not writable.
    """
    return _acquired(argument, folder, FileLock(folder / LOCK, timeout=0))


class FileOwner:
    """Holds the locks of files that this process writes; it may have several owners of one file.

    A file's lock is ``.NAME.lock`` in the same folder, so that several processes can have files there. Locks
    end with
    :meth:`release`, with the owner, or with the process.

    :param paths: the files by argument; None for no file.
    """

    def __init__(self, **paths: Path | None) -> None:
        self._paths = {argument: path for argument, path in paths.items() if path is not None}
        if len({path.resolve() for path in self._paths.values()}) < len(self._paths):
            raise InputError(f"{', '.join(self._paths)}: expected different files, got one for both")
        self._end: weakref.finalize[[], FileOwner] | None = None

    def take(self) -> None:
        """Take the locks that are not held yet.

        :raises InputError: another process has one, or the folder is not writable.
        """
        if self._end is not None and self._end.alive:
            return
        with ExitStack() as taken:
            for argument, path in self._paths.items():
                require_writable(path)
                place = path.with_name(f".{path.name}{LOCK}")
                lock = FileLock(place, timeout=0, thread_local=False, is_singleton=True)
                taken.callback(_acquired(argument, path, lock).release)
            self._end = weakref.finalize(self, taken.pop_all().close)
            self._end.atexit = False  # the locks end with the process anyway

    def release(self) -> None:
        """Let other processes write to the files."""
        if self._end is not None:
            self._end()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the locks in the body, and afterwards only if they were held before."""
        before = self._end is not None and self._end.alive
        self.take()
        try:
            yield
        finally:
            if not before:
                self.release()


def _acquired(argument: str, path: Path, lock: BaseFileLock) -> BaseFileLock:
    try:
        lock.acquire()
    except Timeout:
        raise OccupiedError(
            f"{argument}: another process is writing to {path}; wait for it, or stop it"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise unwritable(lock.lock_file, error) from None
    return lock
