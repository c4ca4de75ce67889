"""Mean and variance of a stream of tensors, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Moments:
    """Running mean and variance over the first dimension of the blocks added.

    Blocks are merged by their means and sums of squares (Chan, Golub and LeVeque 1983), so that a large
    mean does not swamp a small variance.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, block: Tensor) -> None:
        """Add the elements of ``block`` [B, ...]."""
        block = block.detach().to("cpu", torch.float64)
        mean = block.mean(0)
        squares = (block - mean).square().sum(0)
        total = self.count + len(block)
        shift = mean - self.mean
        self._squares = self._squares + squares + shift.square() * (self.count * len(block) / total)
        self.mean = self.mean + shift * (len(block) / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """The unbiased variance [...]; NaN for a single element."""
        if self.count < 2:
            return torch.full_like(self.mean, math.nan)
        return self._squares / (self.count - 1)
