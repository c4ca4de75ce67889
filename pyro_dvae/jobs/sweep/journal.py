"""The study of a sweep in Optuna's journal, a file that all processes share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pyro_dvae.errors import DataError
from pyro_dvae.ownership import LOCK

JOURNAL = "journal.log"
_DAMAGES = (AssertionError, AttributeError, LookupError, TypeError, ValueError)  # of Optuna, for odd lines


def open_study(folder: Path, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """Open the study of a sweep, or start it.

    :param folder: folder of the sweep.
    :raises DataError: the journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        path = folder / JOURNAL
        lock: Any = _JournalLock(path)  # Optuna does not export the base class of locks
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        return optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True, pruner=pruner
        )
    except _DAMAGES as error:
        raise DataError(
            f"output: {folder / JOURNAL} is damaged: {type(error).__name__}: {error}; restore it, or name "
            "another folder"
        ) from None


class _JournalLock:
    """The lock of a journal, which ends with its process; Optuna's own stays, with the folder's old path.

    It cuts a last line without its end, as after a full disk; Optuna would append the next line to it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(path.with_name(f".{path.name}{LOCK}"))

    def acquire(self) -> bool:
        self._lock.acquire()
        with open(self._path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._lock.release()
