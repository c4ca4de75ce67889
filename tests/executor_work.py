"""Work for executors: a task that counts, with a checkpoint after each number, and a worker that can die."""

import os
import signal
import time
from dataclasses import dataclass

from pyro_dvae.interrupts import Interrupts, Stopped


@dataclass(frozen=True)
class WorkItem:
    key: str
    total: int = 20
    pause: float = 0.0
    dies: bool = False  # halfway, once

    @property
    def name(self):
        return f"piece {self.key}"


def count(piece, told, folder):
    """Count from the number in the file to the total; return the first number and the process."""
    place, grave = folder / f"{piece.key}.count", folder / f"{piece.key}.died"
    begun = int(place.read_text()) if place.exists() else 0
    with Interrupts() as interrupts:
        for done in range(begun + 1, piece.total + 1):
            if interrupts.requested:
                raise Stopped(place)
            time.sleep(piece.pause)
            place.write_text(str(done))
            told(done, piece.total)
            if piece.dies and done == piece.total // 2 and not grave.exists():
                grave.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
    return {"key": piece.key, "begun": begun, "process": os.getpid()}


def save_slowly(piece, told, folder):
    """Wait for the request to stop, and save for a second."""
    with Interrupts() as interrupts:
        (folder / "begun").touch()
        while not interrupts.requested:
            time.sleep(0.05)
        time.sleep(1)
        (folder / "saved").touch()
        raise Stopped(folder)
