"""How far a run is: a bar on a terminal, plain lines elsewhere. Bounds are in nats per observation.

The trainer calls ``start`` once, ``step`` after every batch, ``epoch`` after every epoch and ``stop`` at the
end, also when the run is interrupted or fails.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pyro_dvae.errors import InputError, shown
from pyro_dvae.text import counted
from pyro_dvae.training.history import History

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text


_LINES_AT_MOST = 100
_REFRESH_SECONDS = 0.1
_RECENT_EPOCHS = 9


class Progress(Protocol):
    """What the trainer tells about a run."""

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Begin: what a resumed run has behind it, the epochs in all, and the steps of each."""

    def step(self, done: int) -> None:
        """Note that ``done`` steps of the present epoch are behind."""

    def epoch(self, history: History) -> None:
        """Note that an epoch ended: it is the last entry of ``history``."""

    def note(self, text: str) -> None:
        """Say what else is going on: that a step is being compiled."""

    def stop(self) -> None:
        """End, whether the run is complete or not."""


def progress_for(stream: TextIO | None = None, enabled: bool | None = None) -> Progress:
    """Return a bar if ``stream`` (standard error) is a terminal, else plain lines; False silences."""
    if enabled is False:
        return Silent()
    target = sys.stderr if stream is None else stream
    if target is None:  # a program without a console
        return Silent()
    if _is_terminal(target) and os.environ.get("TERM", "") != "dumb":
        return Bar(target)
    return Lines(target)


def chosen(argument: str, progress: Any) -> Progress:
    """Return what to tell: by True, False or None, or an object, which must have the methods."""
    if progress is None or isinstance(progress, bool):
        return progress_for(enabled=progress)
    methods = ("start", "step", "epoch", "note", "stop")
    if isinstance(progress, type) or not all(callable(getattr(progress, each, None)) for each in methods):
        raise InputError(
            f"{argument}: expected True, False, None, or an object with start, step, epoch, note and stop, "
            f"got {shown(progress)}"
        )
    found: Progress = progress
    return found


class Silent:
    """Says nothing."""

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Say nothing."""

    def step(self, done: int) -> None:
        """Say nothing."""

    def epoch(self, history: History) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""


class Lines:
    """One plain line per epoch; of a run of more than a hundred epochs every k-th, about a hundred in all.

    A stream that breaks (a closed pipe) silences it: a run does not end because nobody reads.
    """

    def __init__(self, stream: TextIO):
        self._stream: TextIO | None = stream

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Say what the numbers are."""
        self._epochs, self._every = epochs, math.ceil(epochs / _LINES_AT_MOST)
        self._write(_heading(history, epochs, steps))

    def step(self, done: int) -> None:
        """Say nothing."""

    def epoch(self, history: History) -> None:
        """Say how the epoch went, if it is the first, a k-th or the last."""
        number = history.epochs[-1]
        if number == 1 or number % self._every == 0 or number == self._epochs:
            best = " (best)" if history.best_epoch == number else ""
            left = _left(seconds_left(history, self._epochs))
            self._write(
                "  ".join(filter(None, [f"epoch {number}/{self._epochs}", _bounds(history) + best, left]))
            )

    def note(self, text: str) -> None:
        """Say it."""
        self._write(text)

    def stop(self) -> None:
        """Say nothing."""

    def _write(self, line: str) -> None:
        if self._stream is not None:
            try:
                print(line, file=self._stream, flush=True)
            except (OSError, ValueError):
                self._stream = None


class Bar:
    """One line, drawn anew at most ten times a second: epoch, bar over the whole run, time left, bounds."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._live: Live | None = None

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Draw the bar for the first time."""
        from rich.console import Console
        from rich.live import Live

        self._history, self._epochs, self._steps, self._done = history, epochs, steps, 0
        self._fill = "━" if "utf" in (getattr(self._stream, "encoding", None) or "").lower() else "="
        self._began = self._next = time.monotonic()
        self._console = Console(file=self._stream, highlight=False)
        self._console.print(_heading(history, epochs, steps), markup=False)
        self._live = Live(
            self._line(), console=self._console, auto_refresh=False, redirect_stdout=_is_terminal(sys.stdout)
        )
        self._live.start(refresh=True)

    def step(self, done: int) -> None:
        """Draw the bar anew if the last time is a tenth of a second ago."""
        now = time.monotonic()
        if now >= self._next:
            self._done, self._next = done, now + _REFRESH_SECONDS
            self._draw()

    def epoch(self, history: History) -> None:
        """Take up the epoch's numbers; draw them if it is time or the run is at its end."""
        self._history, self._done, self._began = history, 0, time.monotonic()
        if self._began >= self._next or len(history.epochs) >= self._epochs:
            self._next = self._began + _REFRESH_SECONDS
            self._draw()

    def note(self, text: str) -> None:
        """Write it above the bar."""
        with suppress(OSError):
            self._console.print(text, markup=False)

    def stop(self) -> None:
        """Leave the last state of the bar on its line and give the terminal back."""
        if self._live is not None:
            with suppress(OSError):
                self._live.update(self._line())
                self._live.stop()
            self._live = None

    def _draw(self) -> None:
        if self._live is not None:
            try:
                self._live.update(self._line(), refresh=True)
            except OSError:  # the terminal is gone
                self._live = None

    def _line(self) -> Text:
        from rich.text import Text

        finished = len(self._history.epochs)
        fraction = self._done / self._steps
        left = seconds_left(self._history, self._epochs, fraction, time.monotonic() - self._began)
        epoch = f"epoch {min(finished + 1, self._epochs)}/{self._epochs}"
        after = "  ".join(filter(None, [_left(left), _bounds(self._history) + self._best()]))
        width = min(40, self._console.width - len(epoch) - len(after) - 5)
        line = Text(epoch, no_wrap=True, overflow="crop")
        if width >= 5:
            full = round(width * (finished + fraction) / self._epochs)
            line.append("  ").append(self._fill * full, "green").append(
                self._fill * (width - full), "bright_black"
            )
        return line.append("  ").append(after)

    def _best(self) -> str:
        best, epoch = self._history.best_validation_bound, self._history.best_epoch
        if best is None:
            return ""
        return " (best)" if epoch == self._history.epochs[-1] else f" (best {_number(best)})"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and hasattr(stream, "isatty") and stream.isatty()


def seconds_left(history: History, epochs: int, fraction: float = 0.0, elapsed: float = 0.0) -> float | None:
    """Return the expected seconds to the end: by the median of the recent epochs, or by part of the present.

    ``fraction`` of the present epoch is done, in ``elapsed`` seconds. None if there is nothing to go by: the
    first epoch, which also records the step and compares it, says nothing of the others.
    """
    remaining = epochs - len(history.epochs)
    if remaining <= 0:
        return 0.0
    if later := history.seconds[1:]:
        usual = statistics.median(later[-_RECENT_EPOCHS:])
        return usual * (remaining - fraction)
    if fraction > 0 and elapsed > 1:
        return elapsed / fraction * remaining - elapsed
    return None


def duration(seconds: float) -> str:
    """Return a time as people say it: ``45 s``, ``1 min 40 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _left(seconds: float | None) -> str:
    return "" if not seconds else f"{duration(seconds)} left"


def _heading(history: History, epochs: int, steps: int) -> str:
    behind = f", {len(history.epochs)} done" if history.epochs else ""
    each = f"{counted(epochs, 'epoch')} of {counted(steps, 'step')}"
    return f"{each}{behind}; bounds in nats per observation"


def _bounds(history: History) -> str:
    parts = []
    if history.epochs and history.train_bound[-1] is not None:
        parts.append(f"training {_number(history.train_bound[-1])}")
    if history.epochs and history.validation_bound[-1] is not None:
        parts.append(f"validation {_number(history.validation_bound[-1])}")
    return "  ".join(parts)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
