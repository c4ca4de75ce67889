"""The history of a training run, epoch by epoch, and its lines in ``metrics.jsonl``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field

from pyro_dvae.files import append_text, user_path, write_atomically

FIRST_LOSSES = 100


@dataclass
class History:
    """One entry per finished epoch (epochs count from 1); bounds in nats per observation, higher is better.

    ``print`` shows a table of at most ten epochs.

    ``validation_bound`` is None for an epoch without validation, ``train_bound`` for one without steps.
    ``train_bound`` is the mean over the epoch's steps, each with the weights of that step. ``first_losses``
    are the losses of the first steps, each summed over its batch (nats); they show whether another machine
    computes the same bits.
    """

    epochs: list[int] = field(default_factory=list)
    train_bound: list[float | None] = field(default_factory=list)
    validation_bound: list[float | None] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    best_validation_bound: float | None = None
    first_losses: list[float] = field(default_factory=list)

    def add(
        self, train_bound: float | None, validation_bound: float | None, learning_rate: float, seconds: float
    ) -> bool:
        """Add the next epoch; return whether its validation bound is the best so far."""
        self.epochs.append(len(self.epochs) + 1)
        self.train_bound.append(train_bound)
        self.validation_bound.append(validation_bound)
        self.learning_rate.append(learning_rate)
        self.seconds.append(seconds)
        better = _better(validation_bound, self.best_validation_bound)
        if better:
            self.best_epoch, self.best_validation_bound = self.epochs[-1], validation_bound
        return better

    def __str__(self) -> str:
        """Return a table of at most ten epochs, the best and the last among them."""
        count = len(self.epochs)
        chosen = {round(each * (count - 1) / 8) for each in range(9)} if count > 9 else set(range(count))
        if self.best_epoch is not None:
            chosen.add(self.best_epoch - 1)
        lines = [f"{'epoch':>6}{'training':>12}{'validation':>12}{'rate':>10}{'seconds':>9}"]
        for n in sorted(chosen):
            bounds = "".join(f"{_number(each[n]):>12}" for each in (self.train_bound, self.validation_bound))
            mark = "  best" if self.epochs[n] == self.best_epoch else ""
            lines.append(
                f"{self.epochs[n]:>6}{bounds}{self.learning_rate[n]:>10.2g}{self.seconds[n]:>9.2f}{mark}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """Return the history as JSON-able values; ``History(**values)`` is its inverse."""
        return dataclasses.asdict(self)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _better(bound: float | None, best: float | None) -> bool:
    return bound is not None and math.isfinite(bound) and (best is None or bound > best)


def metrics_lines(history: History) -> list[str]:
    """Return one JSON text per epoch; a non-finite number is null."""
    lines, best = [], None
    for n, validation in enumerate(history.validation_bound):
        is_best = _better(validation, best)
        best = validation if is_best else best
        lines.append(_line(history, n, is_best))
    return lines


def _line(history: History, n: int, is_best: bool) -> str:
    line = {
        "epoch": history.epochs[n],
        "train_bound": _finite_or_none(history.train_bound[n]),
        "validation_bound": _finite_or_none(history.validation_bound[n]),
        "best": is_best,
        "learning_rate": _finite_or_none(history.learning_rate[n]),  # some optimizers have none
        "seconds": round(history.seconds[n], 4),
    }
    return json.dumps(line)


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class MetricsFile:
    """``metrics.jsonl``: the first write makes it agree with the history, later writes append a line."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = user_path("metrics", path)
        self._agrees = False

    def rewrite(self, history: History) -> None:
        """Replace the file with the lines of ``history``."""
        text = "".join(line + "\n" for line in metrics_lines(history))
        write_atomically(self.path, text, make_folder=False)
        self._agrees = True

    def append(self, history: History) -> None:
        """Add the line of the last epoch of ``history``."""
        if not self._agrees:
            self.rewrite(history)
            return
        append_text(self.path, _line(history, -1, history.best_epoch == history.epochs[-1]) + "\n")
