"""The temperature of a relaxed distribution."""

from __future__ import annotations

import math

from pyro_dvae import checks
from pyro_dvae.corruptions.level import Level
from pyro_dvae.corruptions.schedules import Schedule


class Temperature(Level):
    """A number above 0, or a schedule over epochs; a buffer changed in place, as compiled steps need.

    :param value: the temperature.
    """

    def __init__(self, value: float | Schedule) -> None:
        for number in value.levels() if isinstance(value, Schedule) else [value]:
            checks.positive_single("temperature", number)
        super().__init__("temperature", value, maximum=math.inf)
