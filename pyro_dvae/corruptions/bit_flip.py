"""Flipped bits."""

from __future__ import annotations

from torch import Tensor

from pyro_dvae.corruptions.replacement import Atoms, ReplacingCorruption


class BitFlip(ReplacingCorruption):
    """Each element becomes, with probability ``rate``, 1 − x; for binary data a Bernoulli corruption.

    :param rate: probability of a flip, in [0, 1]: a number, a tensor per element, a schedule, or a network
        of the data.
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`).
    """

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        return [(1 - x, 1.0)]
