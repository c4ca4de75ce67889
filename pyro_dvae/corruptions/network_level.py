"""The level of a corruption as a function of the clean datum, computed by a network."""

from __future__ import annotations

from typing import TypeAlias

from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions.level import Level, constrain
from pyro_dvae.corruptions.schedules import Schedule
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module

LevelLike: TypeAlias = float | Tensor | Schedule | nn.Module


class NetworkLevel(Module):
    """A rate or scale per element of the datum, ``constrain(network(x))``, above ``minimum``.

    :param network: module from ``x`` [..., D] to unconstrained levels [..., D], or [..., 1] for one level
        per datum.
    :param minimum: lower limit of the level, below ``maximum``.
    :param maximum: 1 for a rate, infinity for a scale.
    :param argument: that gave the network, for error messages.
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
        """Return the levels for clean ``x``; checked to be finite while Pyro validates."""
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
    """Return the module that gives a level: of a network where ``value`` is one, else a :class:`Level`."""
    if not isinstance(value, nn.Module):
        return Level(argument, value, learnable=learnable, minimum=minimum, maximum=maximum)
    if learnable:
        raise InputError(f"learnable: the {argument} is a network, which is learned as it is; leave it out")
    return NetworkLevel(value, minimum, maximum, argument)
