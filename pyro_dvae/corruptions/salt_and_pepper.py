"""Salt-and-pepper noise."""

from __future__ import annotations

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.network_level import LevelLike
from pyro_dvae.corruptions.replacement import Atoms
from pyro_dvae.corruptions.replacing import ReplacingCorruption
from pyro_dvae.errors import InputError


class SaltAndPepper(ReplacingCorruption):
    """Each element becomes, with probability ``rate``, 1 (salt) or 0 (pepper).

    The reference code of Im et al. (2017) replaces a pixel at level c by a Bernoulli(c) draw, so mostly
    by 0: that is ``salt="rate"``.

    :param rate: probability of a replacement, in [0, 1]: a number, a tensor per element, a schedule, or a
        network of the data.
    :param salt: share of 1 among the replaced elements, in [0, 1], or ``"rate"``.
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`); not with
        ``salt="rate"``, whose share has no pathwise gradient.
    """

    def __init__(
        self,
        rate: LevelLike,
        salt: float | str = 0.5,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__(rate, learnable=learnable, minimum=minimum, temperature=temperature)
        if isinstance(salt, str) and salt != "rate":
            raise InputError(f"salt: expected a number in [0, 1] or 'rate', got {salt!r}")
        if isinstance(salt, str) and temperature is not None:
            raise InputError(
                "temperature: a relaxed corruption has no gradient for the share of salt='rate'; "
                "give salt a number or leave temperature out"
            )
        self.salt = salt if isinstance(salt, str) else checks.number("salt", salt, 0.0, 1.0)

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        share = rate if isinstance(self.salt, str) else self.salt
        return [(1.0, share), (0.0, 1 - share)]
