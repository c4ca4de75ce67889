"""Processes of this machine, one for each piece of work and each on one thread: the default executor.

A run of these networks gains little from a second thread, so on a CPU as many runs as there are cores are
faster than one after another on all cores. A process that is stopped saves its checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pyro_dvae.errors import ProcessLostError

_THREADS = "OMP_NUM_THREADS"


@dataclass
class _Process:
    process: Any
    connection: Connection

    def done(self) -> bool:
        return self.connection.poll()

    def result(self) -> Any:
        try:
            return pickle.loads(self.connection.recv_bytes())
        except EOFError:
            self.process.join()
            raise ProcessLostError(f"its process ended with code {self.process.exitcode}") from None

    def cancel(self) -> None:
        self.process.terminate()


class Local:
    """Starts a process for everything that is submitted; the driver limits how many there are."""

    grace = 0.0  # cancelling asks them to save

    def __init__(self) -> None:
        self._started: list[_Process] = []

    def submit(self, function: Callable[[Any], Any], planned: Any) -> _Process:
        """Start a process that calls ``function(planned)``."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(function, planned, theirs), daemon=True)
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
        self._started.append(_Process(process, ours))
        return self._started[-1]

    def close(self) -> None:
        """Stop what still works, and wait until it has saved its checkpoint."""
        for each in self._started:
            each.process.terminate()
        for each in self._started:
            each.process.join()
            each.connection.close()


def _work(function: Callable[[Any], Any], planned: Any, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent hears it too, and sends SIGTERM
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outcome = function(planned)
    with suppress(OSError):  # the parent is gone
        connection.send_bytes(pickle.dumps(outcome))  # torch's own way for tensors ends with the process


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
