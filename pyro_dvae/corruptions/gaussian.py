"""Gaussian noise, additive and multiplicative."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.levels import LevelLike, level


class GaussianNoise(Corruption):
    """``x̃ ~ N(x, scale²)`` per element; corrupted values are not clipped to the range of the data.

    :param scale: standard deviation, ≥ 0: a number, a tensor with a value for each element, a schedule, or a
        network applied to the data (see :class:`NetworkCorruption`).
    :param learnable: learn the scale, starting at ``scale`` and bounded below by ``minimum``.
    """

    def __init__(self, scale: LevelLike, *, learnable: bool = False, minimum: float = 0.0) -> None:
        super().__init__()
        self.scale = level("scale", scale, learnable=learnable, minimum=minimum, maximum=math.inf)

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        # A schedule may end at a scale of 0, which torch's own check would refuse.
        return dist.Normal(x, self.scale(x).to(x.dtype).expand(x.shape), validate_args=False)


_SMALLEST = 1e-12  # lower bound of |x|, so that zeros have a density


class MultiplicativeNoise(Corruption):
    """``x̃ = x (1 + scale ε)``, ε ~ N(0, 1): errors in proportion to the value (Srivastava et al. 2014).

    Zeros stay zeros. This suits amounts that differ by orders of magnitude: additive noise of one scale would
    hide the small ones.

    :param scale: standard deviation relative to |x|, ≥ 0: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data (see :class:`NetworkCorruption`).
    :param learnable: learn the scale, starting at ``scale`` and bounded below by ``minimum``.
    """

    def __init__(self, scale: LevelLike, *, learnable: bool = False, minimum: float = 0.0) -> None:
        super().__init__()
        self.scale = level("scale", scale, learnable=learnable, minimum=minimum, maximum=math.inf)

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        scale = self.scale(x).to(x.dtype) * x.abs().nan_to_num(_SMALLEST).clamp(min=_SMALLEST)
        # A schedule may end at a scale of 0, which torch's own check would refuse.
        return dist.Normal(x, scale, validate_args=False)
