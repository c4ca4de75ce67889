"""The work of a worker on a piece; files in a shared folder connect it to its driver.

``progress/KEY.json`` has the progress of the piece. ``progress/SESSION.driver`` exists while the driver wants
the work. When it stops, or another driver replaces it, the worker saves its checkpoint and ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyro_dvae import interrupts
from pyro_dvae.datasets.registry import Loader, register_all
from pyro_dvae.errors import DivergenceError, InputError
from pyro_dvae.files import write_atomically
from pyro_dvae.jobs.executors.run_progress import ProgressRelay
from pyro_dvae.machine import keep_freed_memory, using_threads
from pyro_dvae.ownership import OccupiedError

PROGRESS = "progress"
DONE, REFUSED, DIVERGED, STOPPED, FAILED = "done", "refused", "diverged", "stopped", "failed"
GUARD = "in a script, put what starts the work under if __name__ == '__main__':"
_TOLD_EVERY = 1.0  # seconds
_WAIT = 120.0  # seconds, for an earlier worker to save its checkpoint
_one_at_a_time = threading.Lock()  # Pyro's parameters and torch's random state belong to the whole process

Outcome = tuple[str, Any]


class WorkItem(Protocol):
    """A piece of work: a picklable record."""

    @property
    def name(self) -> str:
        """The piece in words."""

    @property
    def key(self) -> str:
        """A unique file name."""


@dataclass(frozen=True)
class Work:
    """Adapts a function of a piece of work and its progress to all executors.

    It returns the outcome instead of raising, so an exception means that the worker was lost.

    :param function: a picklable function of the piece and a :class:`~.run_progress.ProgressRelay`.
    :param folder: the shared folder.
    :param session: the session of the driver.
    :param attempt: number of times that the piece was lost before.
    :param loaders: data sets that the driver's own script has registered, by name.
    """

    function: Callable[[Any, ProgressRelay], Any]
    folder: Path
    session: str
    attempt: int = 0
    loaders: Mapping[str, Loader] = field(default_factory=dict)

    def __call__(self, piece: WorkItem) -> Outcome:
        keep_freed_memory()
        register_all(self.loaders)
        with _one_at_a_time, using_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))):
            return self._perform(piece)

    def _perform(self, piece: WorkItem) -> Outcome:
        report = _Report(self.folder, self.session, piece.key)
        given_up = time.monotonic() + _WAIT
        try:
            while True:
                report.write()
                try:
                    return DONE, self.function(piece, ProgressRelay(report.epoch, report.note, report.listen))
                except OccupiedError:
                    if time.monotonic() > given_up:
                        raise
                time.sleep(_TOLD_EVERY)
        except KeyboardInterrupt:
            return STOPPED, "it was stopped"
        except InputError as error:
            return REFUSED, str(error)
        except DivergenceError as error:
            return DIVERGED, str(error)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return FAILED, f"{type(error).__name__}: {error}"

    def checkpoint(self, piece: WorkItem) -> Any:
        """Return the work that submitit puts back into the queue, which continues from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, piece)


class _Report:
    """Writes the progress of a piece, and checks whether its driver still wants it."""

    def __init__(self, folder: Path, session: str, key: str) -> None:
        self._path, self._driver = folder / PROGRESS / f"{key}.json", driver_file(folder, session)
        self._last = 0.0
        self._state: dict[str, Any] = {"done": 0, "total": 0, "note": ""}

    def epoch(self, done: int, total: int) -> None:
        self._state.update(done=done, total=total)
        self.listen()

    def note(self, text: str) -> None:
        self._state["note"] = text
        self.write()

    def listen(self) -> None:
        if time.monotonic() - self._last >= _TOLD_EVERY:
            self.write()

    def write(self) -> None:
        self._last = time.monotonic()
        if not self._driver.exists():
            interrupts.request()
        with suppress(InputError):
            write_atomically(self._path, json.dumps(self._state), make_folder=False)


def driver_file(folder: Path, session: str) -> Path:
    """Return the file that exists while the driver of a session wants its work."""
    return folder / PROGRESS / f"{session}.driver"  # a new name each time, which no file system has cached
