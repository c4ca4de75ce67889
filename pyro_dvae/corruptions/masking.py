"""Masking noise (drop-out of the input)."""

from __future__ import annotations

from torch import Tensor

from pyro_dvae.corruptions.replacement import Atoms, ReplacingCorruption


class Masking(ReplacingCorruption):
    """Each element becomes 0 with probability ``rate``; kept elements are not rescaled.

    :param rate: probability of masking, in [0, 1]: a number, a tensor per element, a schedule, or a network
        of the data.
    :param learnable: learn the rate, from ``rate`` and above ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`).
    """

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        return [(0.0, 1.0)]
