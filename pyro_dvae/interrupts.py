"""Ctrl-C, SIGTERM and SIGHUP during long work, handled between steps, never within a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """Training or an evaluation was stopped by Ctrl-C, SIGTERM or SIGHUP, between two steps.

    ``checkpoint`` is the file from which it can be resumed exactly; None if there is none.
    """

    def __init__(self, checkpoint: Path | None = None):
        saved = (
            "nothing was saved (no checkpoint was given)" if checkpoint is None else f"saved in {checkpoint}"
        )
        super().__init__(f"stopped; {saved}")
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[type[Stopped], tuple[Path | None]]:
        """Return the arguments that recreate it in another process."""
        return Stopped, (self.checkpoint,)


class Interrupts:
    """A context in which the first signal sets ``requested`` and a second one interrupts at once.

    The signals are Ctrl-C, SIGTERM and the hang-up of a terminal. Nothing changes outside the main thread, or
    for ignored signals. The earlier handlers are restored at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not None and before != signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        _active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _active.remove(self)
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self.at_once:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, unless ignored, raise ``KeyboardInterrupt`` in the body, as Ctrl-C does."""
    changed = [
        number
        for number in _SIGNALS
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


_active: list[Interrupts] = []


def request() -> None:
    """Stop the current work in this process like the first Ctrl-C, between two steps."""
    if not _active or _active[-1].at_once:
        raise KeyboardInterrupt
    _active[-1].requested = True


@contextmanager
def at_once() -> Iterator[None]:
    """Let the first signal interrupt the body at once; it may be long but leaves nothing incomplete."""
    present = _active[-1] if _active else Interrupts()
    if present.requested:
        raise KeyboardInterrupt
    before, present.at_once = present.at_once, True
    try:
        yield
    finally:
        present.at_once = before
