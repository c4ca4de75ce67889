"""The driver: submits pieces of work to an executor, shows their progress, and collects their results."""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pyro_dvae.datasets.registry import own_loaders
from pyro_dvae.errors import InputError, ProcessLostError
from pyro_dvae.files import write_atomically
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.jobs.executors import worker
from pyro_dvae.jobs.executors.local import Local
from pyro_dvae.jobs.executors.run_progress import ProgressRelay, RunsProgress
from pyro_dvae.jobs.executors.worker import Outcome, Work, WorkItem

LOSSES = 3  # times that a piece may be lost without progress
_POLL = 0.2  # seconds
_GRACE = 60.0  # seconds for work to save its checkpoint
_ENDING = 5.0  # seconds for cancelled work to end


class SubmittedWork(Protocol):
    """A submitted piece of work; if it has ``cancel()``, the driver calls it when it stops."""

    def done(self) -> bool:
        """Return whether there is a result, or the work was lost."""

    def result(self) -> Any:
        """Return the result of the function; raise if its worker was lost."""


class Executor(Protocol):
    """Runs functions elsewhere."""

    def submit(self, function: Callable[[Any], Any], planned: Any, /) -> SubmittedWork:
        """Start ``function(planned)``, and return immediately."""


@dataclass
class _Running:
    piece: WorkItem
    handle: Any = None
    attempt: int = 0
    losses: int = 0
    had: int = 0  # finished epochs when it was submitted
    done: int = 0
    note: str = ""
    begun: bool = False


def drive(
    executor: Executor,
    function: Callable[[Any, ProgressRelay], Any],
    pieces: Sequence[Any],
    folder: Path,
    *,
    watch: RunsProgress,
    keep: Callable[[Any, Any], str],
    width: int | None = None,
) -> list[str]:
    """Do all pieces of work; return what diverged, by name.

    If the worker of a piece is lost (killed, preempted, or its node is down), the piece is submitted again
    and continues from its checkpoint.

    :param executor: the executor.
    :param function: a picklable function of a piece and of its progress.
    :param pieces: picklable records with a ``name`` and a ``key``.
    :param folder: a folder that all workers see under this path.
    :param watch: shows the pieces in progress.
    :param keep: takes a piece and its result, and returns the result in a few words; called in this process,
        in the order in which the pieces end.
    :param width: number of pieces submitted at a time; by default all.
    :raises Stopped: after Ctrl-C or SIGTERM; the workers save their checkpoints.
    :raises InputError: a piece is refused; the others are stopped.
    :raises ProcessLostError: a piece was lost several times without progress, or failed.
    """
    waiting = deque(_Running(piece) for piece in pieces)
    running: list[_Running] = []
    diverged: list[str] = []
    accepted = False
    # A local process runs the script itself, which registers them.
    loaders = {} if isinstance(executor, Local) else own_loaders()
    with _session(folder) as session:
        try:
            with Interrupts() as interrupts:
                while waiting or running:
                    if interrupts.requested:
                        raise Stopped(folder)
                    while waiting and len(running) < (width or len(pieces)):
                        each = waiting.popleft()
                        work = Work(function, folder, session, each.attempt, loaders)
                        each.handle = _submitted(executor, work, each.piece, first=not accepted)
                        accepted = True
                        running.append(each)
                    ended = [each for each in running if each.handle.done()]
                    for each in running:
                        _tell(each, folder, watch)
                    for each in ended:
                        running.remove(each)
                        if _taken_in(each, watch, keep, diverged):
                            _progress(folder, each.piece).unlink(missing_ok=True)
                        else:
                            waiting.appendleft(each)
                    if not ended:
                        time.sleep(_POLL)
        finally:
            worker.driver_file(folder, session).unlink(missing_ok=True)
            _end(running, getattr(executor, "grace", _GRACE))
    return diverged


def _submitted(executor: Executor, work: Work, piece: WorkItem, first: bool) -> SubmittedWork:
    try:
        return executor.submit(work, piece)
    except Exception as error:  # of the executor, for example an unknown partition of Slurm
        refusal = f"executor: {piece.name} was not accepted: {error}"
        if first:
            raise InputError(refusal) from None
        guard = f"; {worker.GUARD}" if isinstance(error, BrokenExecutor) else ""
        raise ProcessLostError(
            f"{refusal}; once the executor accepts work, the same command goes on from the last checkpoints"
            f"{guard}"
        ) from None


def _taken_in(
    each: _Running, watch: RunsProgress, keep: Callable[[Any, Any], str], diverged: list[str]
) -> bool:
    """Collect the outcome of a piece; return False if it must be submitted again."""
    name = each.piece.name
    kind, content = _outcome(each.handle)
    if kind == worker.DONE:
        watch.end(name, keep(each.piece, content))
    elif kind == worker.DIVERGED:
        diverged.append(f"{name}: {content}")
        watch.end(name, content)
    elif kind == worker.REFUSED:
        raise InputError(f"{name}: {content}")
    elif kind == worker.FAILED:
        raise ProcessLostError(
            f"{name} failed: {content}; repeat the command to continue from the last checkpoint"
        )
    else:
        each.losses = 1 if each.done > each.had else each.losses + 1
        each.attempt, each.had, each.begun = each.attempt + 1, each.done, False
        if each.losses >= LOSSES:
            raise ProcessLostError(
                f"the worker of {name} was lost {LOSSES} times: {content}; the same command goes on from its "
                "last checkpoint"
            )
        watch.say(f"lost the worker of {name} ({content}); it is submitted again")
        return False
    return True


def _outcome(handle: SubmittedWork) -> Outcome:
    try:
        outcome: Outcome = handle.result()
    except Exception as error:  # each executor has its own exceptions
        return "lost", " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return outcome


def _tell(each: _Running, folder: Path, watch: RunsProgress) -> None:
    """Show the progress of a piece, from its file."""
    try:
        state = json.loads(_progress(folder, each.piece).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not begun
        return
    if not each.begun:
        each.begun = True
        watch.start(each.piece.name)
    if state["done"] > each.done:
        each.done = state["done"]
        watch.epoch(each.piece.name, state["done"], state["total"])
    if state["note"] != each.note:
        each.note = state["note"]
        watch.note(each.piece.name, each.note)


def _progress(folder: Path, piece: WorkItem) -> Path:
    return folder / worker.PROGRESS / f"{piece.key}.json"


@contextmanager
def _session(folder: Path) -> Iterator[str]:
    """Yield a new name, and stop the workers of earlier drivers of this folder."""
    place, name = folder / worker.PROGRESS, uuid.uuid4().hex
    _empty(place)
    write_atomically(worker.driver_file(folder, name), "")
    try:
        yield name
    finally:
        _empty(place)
        with suppress(OSError):
            place.rmdir()


def _empty(place: Path) -> None:
    for left in place.glob("*"):
        left.unlink(missing_ok=True)


def _end(running: Sequence[_Running], grace: float) -> None:
    """Cancel the remaining work, after some time for running work to notice and save its checkpoint."""
    deadline = time.monotonic() + grace
    for each in sorted(running, key=lambda each: each.begun):
        while each.begun and not each.handle.done() and time.monotonic() < deadline:
            time.sleep(_POLL)
        cancel = getattr(each.handle, "cancel", None)
        if cancel is not None and not each.handle.done():
            with suppress(Exception):
                cancel()
    deadline = time.monotonic() + _ENDING
    while time.monotonic() < deadline and not all(each.handle.done() for each in running):
        time.sleep(_POLL)
