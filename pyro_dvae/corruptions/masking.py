"""Masking noise (drop-out of the input)."""

from __future__ import annotations

from torch import Tensor

from pyro_dvae.corruptions.replacement import Atoms, ReplacingCorruption


class Masking(ReplacingCorruption):
    """Replace each element by 0 with probability ``rate``; other elements are not rescaled.

    :param rate: probability of masking, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data.
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`).
    """

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        return [(0.0, 1.0)]
