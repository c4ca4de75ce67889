"""The progress of a run: a bar on a terminal, plain lines elsewhere. Bounds are in nats per observation.

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
    """The messages of the trainer about a run."""

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Begin with the history of a resumed run, the total number of epochs, and the steps of each."""

    def step(self, done: int) -> None:
        """Report that ``done`` steps of the current epoch are finished."""

    def epoch(self, history: History) -> None:
        """Report the end of an epoch, the last entry of ``history``."""

    def note(self, text: str) -> None:
        """Report anything else, such as the compilation of a step."""

    def stop(self) -> None:
        """End, whether or not the run is complete."""


def progress_for(stream: TextIO | None = None, enabled: bool | None = None) -> Progress:
    """Return a bar if ``stream`` (standard error) is a terminal, else plain lines; False shows nothing."""
    if enabled is False:
        return NoProgress()
    target = sys.stderr if stream is None else stream
    if target is None:  # a program without a console
        return NoProgress()
    if _is_terminal(target) and os.environ.get("TERM", "") != "dumb":
        return Bar(target)
    return Lines(target)


def chosen(argument: str, progress: Any) -> Progress:
    """Return the progress for True, False or None, or check an object with these methods."""
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


class NoProgress:
    """Shows nothing."""

    def start(self, *args: Any) -> None:
        """Do nothing."""

    step = epoch = note = stop = start


class Lines:
    """One plain line per epoch, or per k epochs so that there are about a hundred lines.

    A broken stream (a closed pipe) ends the output but not the run.
    """

    def __init__(self, stream: TextIO):
        self._stream: TextIO | None = stream

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Print a heading."""
        self._epochs, self._every = epochs, math.ceil(epochs / _LINES_AT_MOST)
        self._write(_heading(history, epochs, steps))

    def step(self, done: int) -> None:
        """Do nothing."""

    def epoch(self, history: History) -> None:
        """Print a line for the first, every k-th and the last epoch."""
        number = history.epochs[-1]
        if number == 1 or number % self._every == 0 or number == self._epochs:
            best = " (best)" if history.best_epoch == number else ""
            left = _left(seconds_left(history, self._epochs))
            self._write(
                "  ".join(filter(None, [f"epoch {number}/{self._epochs}", _bounds(history) + best, left]))
            )

    def note(self, text: str) -> None:
        """Print the text."""
        self._write(text)

    def stop(self) -> None:
        """Do nothing."""

    def _write(self, line: str) -> None:
        if self._stream is not None:
            try:
                print(line, file=self._stream, flush=True)
            except (OSError, ValueError):
                self._stream = None


class Bar:
    """A line that is redrawn at most ten times a second: epoch, bar over the whole run, time left, bounds."""

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
        """Redraw the bar at most every tenth of a second."""
        now = time.monotonic()
        if now >= self._next:
            self._done, self._next = done, now + _REFRESH_SECONDS
            self._draw()

    def epoch(self, history: History) -> None:
        """Update the epoch's values; redraw if it is time or the run ends."""
        self._history, self._done, self._began = history, 0, time.monotonic()
        if self._began >= self._next or len(history.epochs) >= self._epochs:
            self._next = self._began + _REFRESH_SECONDS
            self._draw()

    def note(self, text: str) -> None:
        """Print the text above the bar."""
        with suppress(OSError):
            self._console.print(text, markup=False)

    def stop(self) -> None:
        """Draw the final state of the bar and restore the terminal."""
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
    """Return the expected seconds to the end, from recent epochs or the rate of the current one.

    ``fraction`` of the current epoch took ``elapsed`` seconds. The first epoch is ignored, because it also
    records and compares the step. None without any information.
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
    """Format a time: ``45 s``, ``1 min 40 s``, ``2 h 05 min``."""
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
