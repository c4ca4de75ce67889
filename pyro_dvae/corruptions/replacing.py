"""What the corruptions that replace elements by fixed values have in common."""

from __future__ import annotations

from abc import abstractmethod

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.corruptions.network_level import LevelLike, level
from pyro_dvae.corruptions.relaxed import RelaxedReplacement
from pyro_dvae.corruptions.replacement import Atoms, Replacement


class ReplacingCorruption(Corruption):
    """Each element becomes, with probability ``rate``, one of some atoms, which a subclass gives.

    A learned rate has a score-function gradient. With a ``temperature`` the corruption is relaxed
    (:class:`RelaxedReplacement`): pathwise gradients of low variance, biased as values between the
    element and an atom are drawn. The attribute may be changed during training, None for no relaxation.

    :param rate: probability of a replacement, in [0, 1]: a number, a tensor per element, a schedule, or
        a network of the data (see :class:`NetworkCorruption`).
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    :param temperature: of the relaxation, above 0.
    """

    def __init__(
        self,
        rate: LevelLike,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.rate = level("rate", rate, learnable=learnable, minimum=minimum)
        self.temperature = None if temperature is None else checks.positive("temperature", temperature)

    @abstractmethod
    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        """Return pairs of a value that may replace an element of ``x`` and its share; shares sum to 1."""

    def distribution(self, x: Tensor) -> TorchDistribution:
        rate = self.rate(x).to(x.dtype)
        atoms = self.atoms(x, rate)
        if self.temperature is None:
            return Replacement(x, rate, atoms)
        return RelaxedReplacement(x, rate, atoms, self.temperature)
