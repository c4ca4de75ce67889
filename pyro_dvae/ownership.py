"""One writer of a folder: a lock that dies with its process, however it ends."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from pyro_dvae.errors import InputError
from pyro_dvae.files import unwritable

LOCK = ".lock"


def own(argument: str, folder: Path) -> BaseFileLock:
    """Take the lock of ``folder``, which exists; call ``release`` on what is returned, or end the process.

    The operating system holds the lock, also between machines where their network file system has locks; the
    file ``.lock`` that stays behind means nothing. Reading needs no lock.

    :param argument: the name of the option that gave the folder, for the error.
    :raises InputError: another process has it, or nothing can be written there.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{argument}: another process is writing to {folder}; wait until it ends, or stop it"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise unwritable(folder / LOCK, error) from None
    return lock
