"""Masking noise (drop-out of the input)."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.corruptions.level import Level
from pyro_dvae.corruptions.replacement import Replacement
from pyro_dvae.corruptions.schedules import Schedule


class Masking(Corruption):
    """Each element becomes 0 with probability ``rate``; kept elements are not rescaled.

    :param rate: probability of masking, in [0, 1]: a number, a tensor per element, or a schedule.
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    """

    def __init__(
        self, rate: float | Tensor | Schedule, *, learnable: bool = False, minimum: float = 0.0
    ) -> None:
        super().__init__()
        self.rate = Level("rate", rate, learnable=learnable, minimum=minimum)

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        return Replacement(x, self.rate(), [(0.0, 1.0)])
