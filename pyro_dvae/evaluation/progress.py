"""Progress of a count: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from pyro_dvae.calling import calling
from pyro_dvae.training.progress import duration

_QUIET_SECONDS = 2.0  # shorter work needs no progress
_SECONDS_BETWEEN_LINES = 10.0

Tell = Callable[[int, int], None]


@contextmanager
def progress_of(
    label: str, progress: bool | Tell | None = None, stream: TextIO | None = None
) -> Iterator[Tell]:
    """Yield a function of the finished and total counts that shows both and the time left.

    :param label: what is counted.
    :param progress: True shows progress, False does not, None shows it after two seconds; a function is
        called instead.
    :param stream: where to print; standard error by default.
    """
    target = sys.stderr if stream is None else stream
    if callable(progress):
        own = progress

        def told(done: int, total: int) -> None:
            with calling("progress"):
                own(done, total)

        yield told
    elif progress is False or target is None:
        yield lambda done, total: None
    else:
        wait = 0.0 if progress else _QUIET_SECONDS
        terminal = target.isatty() and os.environ.get("TERM", "") != "dumb"
        shown = _Bar(label, target, wait) if terminal else _Lines(label, target, max(wait, 1.0))
        try:
            yield shown
        finally:
            shown.stop()


class _Lines:
    """A line every ten seconds, and one at the end if there was any."""

    def __init__(self, label: str, stream: TextIO, wait: float) -> None:
        self._label, self._stream = label, stream
        self._began = time.monotonic()
        self._next = self._began + wait
        self._any = False
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)  # excludes earlier work such as compilation from the rate
        if now >= self._next or (self._any and done == total):
            self._any, self._next = True, now + _SECONDS_BETWEEN_LINES
            rest = (
                f", {self._left(done, total, now)}" if done < total else f" in {duration(now - self._began)}"
            )
            with suppress(OSError, ValueError):
                print(f"{self._label}: {done}/{total}{rest}", file=self._stream, flush=True)

    def _left(self, done: int, total: int, now: float) -> str:
        assert self._first is not None
        count, since = done - self._first[0], now - self._first[1]
        return f"{duration(since / count * (total - done))} left" if count > 0 else "started"

    def stop(self) -> None:
        """Do nothing; a bar would restore the terminal."""


class _Bar:
    """A line that is redrawn, and erased at the end."""

    def __init__(self, label: str, stream: TextIO, wait: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._progress.add_task(label)
        self._next = time.monotonic() + wait
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        if not self._started and time.monotonic() >= self._next:
            self._started = True
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        if self._started:
            self._progress.stop()
