"""Levels of a corruption (fixed, scheduled, learned, or computed by a network), and temperatures.

``Trainer``, ``fit`` and ``fit_many`` update the schedules in model and guide. In your own loop, call the
corruption's ``set_epoch``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.registration import Module


class Schedule(ABC):
    """A corruption level as a pure function of the epoch (0 for the first, fractions allowed)."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return the level at ``epoch``."""

    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """Return levels whose range covers all values, for range checks."""


class ConstantSchedule(Schedule):
    """The same ``level`` at every epoch."""

    def __init__(self, level: float) -> None:
        self.level = checks.number("level", level)

    def __call__(self, epoch: float) -> float:
        return self.level

    def levels(self) -> tuple[float, ...]:
        return (self.level,)


class LinearSchedule(Schedule):
    """Linear from ``start`` at epoch 0 to ``end`` at epoch ``epochs``, then constant."""

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
    """Piecewise constant: ``levels_from`` maps the first epoch of each level to the level.

    The first level also holds before its epoch. Example: ``StepSchedule({0: 0.2, 50: 0.1, 80: 0.05})``.
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


def constrain(raw: Tensor, minimum: float, maximum: float) -> Tensor:
    """Return the level of an unconstrained value.

    ``minimum + (maximum - minimum) * sigmoid(raw)`` for a rate, ``minimum + softplus(raw)`` for a scale
    (``maximum`` infinite).
    """
    if math.isinf(maximum):
        return minimum + softplus(raw)
    return minimum + (maximum - minimum) * torch.sigmoid(raw)


class Level(Module):
    """A rate in [0, 1] or a scale in [0, ∞): a scalar, or a value for each element of an observation.

    A learned level stays above ``minimum``, because it is :func:`constrain` of its parameter ``raw``. A fixed
    or scheduled level is a buffer that changes in place, so compiled steps see the change. A tensor that
    requires a gradient, for example from ``pyro.param``, is used unchanged and gets its gradient.

    :param argument: the name of the level, for error messages.
    :param value: a number, a tensor that broadcasts against an observation, or a :class:`Schedule`.
    :param learnable: whether ``value`` is the initial value of a learned parameter.
    :param minimum: the lower limit of a learned level.
    :param maximum: 1 for a rate, infinity for a scale.
    """

    value: Tensor

    def __init__(
        self,
        argument: str,
        value: float | Tensor | Schedule,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
        maximum: float = 1.0,
    ) -> None:
        super().__init__()
        self.argument = argument
        self.learnable = checks.flag("learnable", learnable)
        self.minimum = checks.number("minimum", minimum, 0.0, maximum)
        self.maximum = maximum
        self.schedule = value if isinstance(value, Schedule) else None
        if isinstance(value, Schedule):
            if learnable:
                raise InputError(f"{argument}: a level cannot be both scheduled and learned")
            for level in value.levels():
                checks.number(argument, level, 0.0, maximum)
            start = torch.tensor(float(value(0)))
        elif isinstance(value, Tensor):
            start = self._checked_tensor(value)
        else:
            start = torch.tensor(checks.number(argument, value, 0.0, maximum))
        if learnable:
            self.raw = nn.Parameter(self._unconstrain(start))
        elif start.requires_grad:
            self.value = start
        else:
            self.register_buffer("value", start)

    def _checked_tensor(self, value: Tensor) -> Tensor:
        live = value.requires_grad
        if live and self.learnable:
            raise InputError(
                f"{self.argument}: a tensor that requires a gradient is learned anyway; leave learnable out"
            )
        if not live:
            value = value.detach().clone()
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        if not live or is_validation_enabled():
            checks.finite(self.argument, value)
            low, high = float(value.detach().min()), float(value.detach().max())
            if low < 0 or high > self.maximum:
                raise InputError(
                    f"{self.argument}: expected values in [0, {self.maximum:g}], "
                    f"got the range [{low:g}, {high:g}]"
                )
        return value

    def _unconstrain(self, start: Tensor) -> Tensor:
        if not bool(((start > self.minimum) & (start < self.maximum)).all()):
            raise InputError(
                f"{self.argument}: a learned level must start inside ({self.minimum:g}, {self.maximum:g}), "
                f"got the range [{float(start.min()):g}, {float(start.max()):g}]"
            )
        if math.isinf(self.maximum):
            above = start - self.minimum
            return above + torch.log(-torch.expm1(-above))
        return torch.logit((start - self.minimum) / (self.maximum - self.minimum))

    def set_epoch(self, epoch: float) -> None:
        """Set a scheduled level to its value at ``epoch``; other levels do not change."""
        if self.schedule is not None:
            self.value.fill_(self.schedule(epoch))

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Return the current level, which does not depend on ``x``; it is differentiable if learned."""
        if not self.learnable:
            return self.value
        return constrain(self.raw, self.minimum, self.maximum)


LevelLike: TypeAlias = float | Tensor | Schedule | nn.Module


class NetworkLevel(Module):
    """A rate or scale per element of the observation, ``constrain(network(x))``, above ``minimum``.

    :param network: module from ``x`` [..., D] to unconstrained levels [..., D], or [..., 1] for one level
        per observation.
    :param minimum: lower limit of the level, below ``maximum``.
    :param maximum: 1 for a rate, infinity for a scale.
    :param argument: name of the argument that gave the network, for error messages.
    """

    def __init__(
        self, network: nn.Module, minimum: float = 0.0, maximum: float = 1.0, argument: str = "network"
    ) -> None:
        super().__init__()
        self._argument = f"{argument}: network output"
        self.network = network
        self.minimum = checks.number("minimum", minimum, 0.0, maximum)
        self.maximum = maximum
        if self.minimum >= maximum:
            raise InputError(f"minimum: expected a number below {maximum:g}, got {minimum!r}")

    def forward(self, x: Tensor) -> Tensor:
        """Return the levels for clean ``x``; they must be finite while Pyro's validation is on."""
        raw = checks.floating(self._argument, self.network(x))
        if raw.dim() != x.dim() or any(a not in (1, b) for a, b in zip(raw.shape, x.shape, strict=True)):
            expected = {tuple(x.shape): None, (*x.shape[:-1], 1): None}
            raise InputError(
                f"{self._argument}: expected shape {' or '.join(map(str, expected))} "
                f"for data of shape {tuple(x.shape)}, got {tuple(raw.shape)}"
            )
        if is_validation_enabled():
            checks.finite(self._argument, raw)
        return constrain(raw, self.minimum, self.maximum)


def level(
    argument: str,
    value: LevelLike,
    *,
    learnable: bool = False,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> Level | NetworkLevel:
    """Return a :class:`NetworkLevel` if ``value`` is a network, else a :class:`Level`."""
    if not isinstance(value, nn.Module):
        return Level(argument, value, learnable=learnable, minimum=minimum, maximum=maximum)
    if learnable:
        raise InputError(f"learnable: the {argument} is a network, which is learned anyway; leave it out")
    return NetworkLevel(value, minimum, maximum, argument)


class Temperature(Level):
    """A positive number or a schedule over epochs, in a buffer that changes in place for compiled steps.

    :param value: the temperature.
    """

    def __init__(self, value: float | Schedule) -> None:
        for number in value.levels() if isinstance(value, Schedule) else [value]:
            checks.positive_single("temperature", number)
        super().__init__("temperature", value, maximum=math.inf)
