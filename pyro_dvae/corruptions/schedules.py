"""Schedules of a corruption level over training, as in scheduled denoising.

``Trainer``, ``fit`` and ``fit_many`` move what model and guide hold; a loop of one's own calls the
corruption's ``set_epoch``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown


class Schedule(ABC):
    """A corruption level as a pure function of the epoch (0 for the first, fractions allowed)."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return the level at ``epoch``."""

    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """Return levels whose hull holds every value, for range checks."""


class ConstantSchedule(Schedule):
    """The same ``level`` at every epoch."""

    def __init__(self, level: float) -> None:
        self.level = checks.number("level", level)

    def __call__(self, epoch: float) -> float:
        return self.level

    def levels(self) -> tuple[float, ...]:
        return (self.level,)


class LinearSchedule(Schedule):
    """From ``start`` at epoch 0 in a straight line to ``end`` at epoch ``epochs``, and ``end`` after it."""

    def __init__(self, start: float, end: float, epochs: float) -> None:
        self.start = checks.number("start", start)
        self.end = checks.number("end", end)
        self.epochs = checks.positive("epochs", epochs)

    def __call__(self, epoch: float) -> float:
        share = min(max(epoch / self.epochs, 0.0), 1.0)
        return self.start + (self.end - self.start) * share

    def levels(self) -> tuple[float, ...]:
        return (self.start, self.end)


class StepSchedule(Schedule):
    """Piecewise constant: ``levels_from`` maps the epoch from which a level holds to that level.

    The first level holds before its epoch too. Example: ``StepSchedule({0: 0.2, 50: 0.1, 80: 0.05})``.
    """

    def __init__(self, levels_from: Mapping[float, float]) -> None:
        if not isinstance(levels_from, Mapping):
            raise InputError(f"levels_from: expected epochs and their levels, got {shown(levels_from)}")
        if not levels_from:
            raise InputError("levels_from: expected at least one epoch and its level, got none")
        self.steps = sorted(
            (checks.number("levels_from", epoch, 0), checks.number("levels_from", level))
            for epoch, level in levels_from.items()
        )

    def __call__(self, epoch: float) -> float:
        current = self.steps[0][1]
        for start, level in self.steps:
            if epoch >= start:
                current = level
        return current

    def levels(self) -> tuple[float, ...]:
        return tuple(level for _, level in self.steps)
