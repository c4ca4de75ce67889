"""Several runs side by side, each in a process of its own on one thread.

A run of these networks gains little from a second thread, so on a CPU as many runs as there are cores are
faster than one after another on all cores. A process that ends without a result takes only its own run with
it; being stopped, it saves the run's checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pyro_dvae.errors import DivergenceError, InputError, ProcessLostError
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.jobs.experiments.declaration import Planned
from pyro_dvae.jobs.experiments.results import Keep, Row
from pyro_dvae.jobs.experiments.watching import Told, Watch

_THREADS = "OMP_NUM_THREADS"
_TOLD_EVERY = 0.5  # seconds


@dataclass
class _Worker:
    planned: Planned
    process: Any
    connection: Connection


def perform_all(
    planned: Sequence[Planned],
    folder: Path,
    device: str,
    jobs: int,
    watch: Watch,
    keep: Keep,
) -> list[str]:
    """Perform the runs, ``jobs`` at a time, and give each row to ``keep``; return what diverged, by name.

    :raises Stopped: Ctrl-C or SIGTERM came; what was under way is saved in its checkpoint.
    :raises InputError: a run is refused; the others are stopped.
    """
    waiting, working, diverged = deque(planned), list[_Worker](), list[str]()
    try:
        with Interrupts() as interrupts:
            while waiting or working:
                while waiting and len(working) < jobs and not interrupts.requested:
                    working.append(_started(waiting.popleft(), folder, device, watch))
                for worker in _with_news(working):
                    if _heard(worker, watch, keep, diverged):
                        working.remove(worker)
                if interrupts.requested:
                    raise Stopped(folder)
    finally:
        _end(working)
    return diverged


def _started(planned: Planned, folder: Path, device: str, watch: Watch) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(planned, folder, device, theirs), daemon=True)
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"  # read when torch is loaded
    try:
        process.start()
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before
    theirs.close()
    watch.start(planned.name)
    return _Worker(planned, process, ours)


def _with_news(working: Sequence[_Worker]) -> list[_Worker]:
    ready = wait([worker.connection for worker in working], timeout=0.5)
    return [worker for worker in working if worker.connection in ready]


def _heard(worker: _Worker, watch: Watch, keep: Keep, diverged: list[str]) -> bool:
    """Take a message of a worker; return whether it was its last."""
    name = worker.planned.name
    try:
        kind, *content = worker.connection.recv()
    except EOFError:
        worker.process.join()
        raise ProcessLostError(
            f"the process of {name} ended with code {worker.process.exitcode} and no result; the same "
            "command goes on from its last checkpoint"
        ) from None
    if kind == "epoch":
        watch.epoch(name, *content)
        return False
    if kind == "note":
        watch.note(name, *content)
        return False
    worker.process.join()
    if kind == "row":
        keep(content[0])
        watch.end(name, summary(content[0]))
    elif kind == "diverged":
        diverged.append(f"{name}: {content[0]}")
        watch.end(name, content[0])
    else:
        raise InputError(f"{name}: {content[0]}")
    return True


def summary(row: Row) -> str:
    """Return a finished run in a few words."""
    bound = row["figures"]["bound"]
    seconds = row["seconds"]["training"] + row["seconds"]["measuring"]
    best = "" if row["best_epoch"] is None else f" at epoch {row['best_epoch']}"
    return f"{bound['mean']:.2f} ± {bound['standard_error']:.2f} nats{best}, {seconds:.0f} s"


def _end(working: Sequence[_Worker]) -> None:
    """Stop what still works, and wait until it has saved its checkpoint."""
    for worker in working:
        worker.process.terminate()
    for worker in working:
        worker.process.join()
        worker.connection.close()


def _work(planned: Planned, folder: Path, device: str, connection: Connection) -> None:
    """Perform one run in this process and send what comes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent hears it too, and sends SIGTERM
    import torch

    from pyro_dvae.jobs.experiments.one_run import perform

    last = 0.0

    def epoch(done: int, epochs: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _TOLD_EVERY:
            last = time.monotonic()
            _send(connection, "epoch", done, epochs)

    torch.set_num_threads(1)
    told = Told(epoch, lambda text: _send(connection, "note", text))
    try:
        _send(connection, "row", perform(planned, folder, torch.device(device), told))
    except InputError as error:
        _send(connection, "refused", str(error))
    except DivergenceError as error:
        _send(connection, "diverged", str(error))
    except KeyboardInterrupt:  # stopped by the parent, which needs no message
        pass


def _send(connection: Connection, *message: Any) -> None:
    try:
        connection.send(message)
    except OSError:  # the parent is gone
        raise KeyboardInterrupt from None
