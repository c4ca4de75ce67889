"""The Threefry generator as tensor operations: slower than a plain hash, of proven quality."""

from __future__ import annotations

import torch
from torch import Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return Threefry-2x32 of twenty rounds (Salmon et al. 2011): two words for each pair of counters.

    :param key: [2], int32, as are the counters.
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = first + words[0], second + words[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << turn) | ((y >> (32 - turn)) & ((1 << turn) - 1))) ^ x
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + (group + 1)
    return x, y


def threefry_bits(key: Tensor, counters: Tensor) -> Tensor:
    """Return 32 bits for each counter, all of int32, as JAX makes them of one generator state."""
    x, y = threefry(key, torch.zeros_like(counters), counters)
    return x ^ y
