"""Flipped bits."""

from __future__ import annotations

from torch import Tensor

from pyro_dvae.corruptions.replacement import Atoms, ReplacingCorruption


class BitFlip(ReplacingCorruption):
    """Replace each element x by 1 − x with probability ``rate``; for binary data this flips bits.

    :param rate: probability of a flip, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data.
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`).
    """

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        return [(1 - x, 1.0)]
