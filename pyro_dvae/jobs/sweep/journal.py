"""The study of a sweep in Optuna's journal, a file that all processes share."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from pyro_dvae.errors import DataError

JOURNAL = "journal.log"
_DAMAGES = (AssertionError, AttributeError, LookupError, TypeError, ValueError)  # of Optuna, for odd lines


def open_study(folder: Path, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """Open the study of a sweep, or start it.

    :param folder: folder of the sweep.
    :raises DataError: the journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        return optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True, pruner=pruner
        )
    except _DAMAGES as error:
        raise DataError(
            f"output: {folder / JOURNAL} is damaged: {type(error).__name__}: {error}; restore it, or name "
            "another folder"
        ) from None


def cut_incomplete_line(folder: Path) -> None:
    """Cut a last line without its end, as after a full disk; Optuna would append the next line to it."""
    path = folder / JOURNAL
    if not path.exists() or path.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock = JournalFileSymlinkLock(str(path))  # another process may be writing the line
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()
