"""The default executor: processes of this machine, one per piece of work, each with one thread.

Runs of these networks gain little from a second thread, so on a CPU one run per core is faster than one run
at a time on all cores. A stopped process saves its checkpoint.
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
from pyro_dvae.jobs.executors.worker import GUARD, REFUSED

_THREADS = "OMP_NUM_THREADS"
_BEGUN = b"begun"  # the first message of a process that has run the script


@dataclass
class _Process:
    process: Any
    connection: Connection
    began: bool = False
    cancelled: bool = False

    def done(self) -> bool:
        if not self.began and self.connection.poll():
            with suppress(EOFError):
                self._receive_beginning()
        return self.connection.poll()

    def result(self) -> Any:
        try:
            if not self.began:
                self._receive_beginning()
            return pickle.loads(self.connection.recv_bytes())
        except EOFError:
            self.process.join()
        code = self.process.exitcode
        if code == 1 and not self.began:
            return REFUSED, (
                f"its process first runs the script again, which failed with the error above; {GUARD}"
            )
        raise ProcessLostError(f"its process ended with code {code}")

    def _receive_beginning(self) -> None:
        self.began = self.connection.recv_bytes() == _BEGUN

    def cancel(self) -> None:
        if not self.cancelled:  # a second signal would interrupt the saving of the checkpoint
            self.cancelled = True
            self.process.terminate()


class Local:
    """Starts a process for every submitted piece; the driver limits their number."""

    grace = 0.0  # cancelled processes save their checkpoints

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
        """Stop the running processes, and wait until they have saved their checkpoints."""
        for each in self._started:
            each.cancel()
        for each in self._started:
            each.process.join()
            each.connection.close()


def _work(function: Callable[[Any], Any], planned: Any, connection: Connection) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal also sends it to the parent, which sends SIGTERM
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):
        connection.send_bytes(_BEGUN)
    outcome = function(planned)
    with suppress(OSError):  # the parent is gone
        connection.send_bytes(pickle.dumps(outcome))  # torch's own transfer of tensors ends with the process


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
