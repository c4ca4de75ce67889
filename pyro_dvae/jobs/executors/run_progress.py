"""The progress of an experiment: a bar for each run on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from pyro_dvae.training.history import History
from pyro_dvae.training.progress import duration

_SECONDS_BETWEEN_LINES = 60.0


class RunsProgress:
    """Shows the runs in progress and their outcomes.

    :param total: number of runs to do.
    :param quiet: show nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._total, self._quiet = total, quiet
        self._stream = sys.stderr if stream is None else stream
        self._done = 0
        self._had = 0.0  # earlier progress of resumed runs, which took no time here
        self._shares: dict[str, float | None] = {}
        self._began = self._last = time.monotonic()
        self._bars: _Bars | None = None
        if not quiet and self._stream.isatty():
            self._bars = _Bars(self._stream, total)

    def start(self, name: str) -> None:
        """Report the start of a run."""
        self._shares[name] = None
        if self._bars is not None:
            self._bars.start(name)
        else:
            self.say(f"started: {name}")

    def epoch(self, name: str, done: int, epochs: int) -> None:
        """Report a finished epoch of a run."""
        if self._shares.get(name) is None:
            self._had += (done - 1) / epochs
        self._shares[name] = done / epochs
        if self._bars is not None:
            self._bars.epoch(name, done, epochs)
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            shares = "; ".join(f"{each} {100 * (share or 0):.0f} %" for each, share in self._shares.items())
            self.say(f"{self._done} of {self._total} done{self._left()}; {shares}")

    def note(self, name: str, text: str) -> None:
        """Report anything else about a run."""
        if self._bars is not None:
            self._bars.note(f"{name}: {text}")

    def end(self, name: str, outcome: str) -> None:
        """Report the end of a run."""
        self._shares.pop(name, None)
        self._done += 1
        if self._bars is not None:
            self._bars.end(name)
        self.say(f"{self._done} of {self._total}: {name}: {outcome}{self._left()}")

    def say(self, line: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.note(line)
        else:
            with suppress(OSError, ValueError):
                print(line, file=self._stream, flush=True)

    def stop(self) -> None:
        """Restore the terminal."""
        if self._bars is not None:
            self._bars.stop()

    def _left(self) -> str:
        done = self._done + sum(share or 0 for share in self._shares.values())
        elapsed = time.monotonic() - self._began
        here, remaining = done - self._had, self._total - done
        if remaining <= 0 or here < 0.02 or elapsed < 1:
            return ""
        return f", about {duration(elapsed / here * remaining)} left"


class _Bars:
    """One line for the whole, and one for each run in progress."""

    def __init__(self, stream: TextIO, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(file=stream, highlight=False))
        self._all = self._progress.add_task("runs", total=total)
        self._tasks = {}  # type: ignore[var-annotated]
        self._progress.start()

    def start(self, name: str) -> None:
        self._tasks[name] = self._progress.add_task(name, total=None)

    def epoch(self, name: str, done: int, epochs: int) -> None:
        self._progress.update(self._tasks[name], completed=done, total=epochs)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)
        self._progress.advance(self._all)

    def stop(self) -> None:
        self._progress.stop()


class ProgressRelay:
    """Progress of a training run that reports finished epochs (and notes) to functions.

    :param epoch: gets the numbers of finished and of all epochs.
    :param note: gets other messages.
    :param listen: called at every step.
    """

    def __init__(
        self,
        epoch: Callable[[int, int], None],
        note: Callable[[str], None] = lambda text: None,
        listen: Callable[[], None] = lambda: None,
    ) -> None:
        self._epoch, self._note, self._listen, self._epochs = epoch, note, listen, 0

    def __call__(self, done: int, total: int) -> None:
        """Report other counted work."""
        self._epoch(done, total)

    def start(self, history: History, epochs: int, steps: int) -> None:
        """Set the total number of epochs."""
        self._epochs = epochs

    def step(self, done: int) -> None:
        """Call ``listen``."""
        self._listen()

    def epoch(self, history: History) -> None:
        """Tell it."""
        self._epoch(history.epochs[-1], self._epochs)

    def note(self, text: str) -> None:
        """Tell it."""
        self._note(text)

    def stop(self) -> None:
        """Say nothing."""
