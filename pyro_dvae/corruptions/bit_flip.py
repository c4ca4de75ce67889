"""Flipped bits."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.corruptions.level import Level
from pyro_dvae.corruptions.replacement import Replacement
from pyro_dvae.corruptions.schedules import Schedule


class BitFlip(Corruption):
    """Each element becomes, with probability ``rate``, 1 − x; for binary data a Bernoulli corruption.

    :param rate: probability of a flip, in [0, 1]: a number, a tensor per element, or a schedule.
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    """

    def __init__(
        self, rate: float | Tensor | Schedule, *, learnable: bool = False, minimum: float = 0.0
    ) -> None:
        super().__init__()
        self.rate = Level("rate", rate, learnable=learnable, minimum=minimum)

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        return Replacement(x, self.rate(), [(1 - x, 1.0)])
