"""Ctrl-C and SIGTERM during long work: a request that is answered between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Training or an evaluation was stopped by Ctrl-C or SIGTERM, between two steps.

    ``checkpoint`` is the file that it goes on from, bit for bit; None when none was asked for.
    """

    def __init__(self, checkpoint: Path | None = None):
        saved = (
            "nothing was saved (no checkpoint was given)" if checkpoint is None else f"saved in {checkpoint}"
        )
        super().__init__(f"stopped; {saved}")
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[type[Stopped], tuple[Path | None]]:
        """Return what another process makes it anew from."""
        return Stopped, (self.checkpoint,)


class Interrupts:
    """A context in which the first signal sets ``requested`` and a second one interrupts at once.

    Outside the main thread, and for a signal that is ignored, nothing is changed; on leaving, the handlers
    that were there before are put back.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not None and before != signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
