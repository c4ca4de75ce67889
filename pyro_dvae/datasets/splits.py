"""Disjoint parts of one array by a seeded permutation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def permuted_split(rows: int, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Cut a random permutation of ``range(rows)`` into index tensors of the given sizes.

    Drawn with NumPy's ``RandomState``, whose stream is frozen: the split is the same on every version.
    """
    if sum(sizes) != rows:
        raise ValueError(f"sizes: expected a sum of {rows}, got {list(sizes)}")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(rows))
    return list(order.split(list(sizes)))
