"""Salt-and-pepper noise."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.corruptions.level import Level
from pyro_dvae.corruptions.replacement import Replacement
from pyro_dvae.corruptions.schedules import Schedule
from pyro_dvae.errors import InputError


class SaltAndPepper(Corruption):
    """Each element becomes, with probability ``rate``, 1 (salt) or 0 (pepper).

    The reference code of Im et al. (2017) replaces a pixel at level c by a Bernoulli(c) draw, so mostly
    by 0: that is ``salt="rate"``.

    :param rate: probability of a replacement, in [0, 1]: a number, a tensor per element, or a schedule.
    :param salt: share of 1 among the replaced elements, in [0, 1], or ``"rate"``.
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    """

    def __init__(
        self,
        rate: float | Tensor | Schedule,
        salt: float | str = 0.5,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
    ) -> None:
        super().__init__()
        self.rate = Level("rate", rate, learnable=learnable, minimum=minimum)
        if isinstance(salt, str) and salt != "rate":
            raise InputError(f"salt: expected a number in [0, 1] or 'rate', got {salt!r}")
        self.salt = salt if isinstance(salt, str) else checks.number("salt", salt, 0.0, 1.0)

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        rate = self.rate().to(x.dtype)
        salt = rate if isinstance(self.salt, str) else self.salt
        return Replacement(x, rate, [(1.0, salt), (0.0, 1 - salt)])
