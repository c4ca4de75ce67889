"""Priors of a network's weights, equal for all weights: normal, scale mixture, and a scale with a prior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError


class WeightPrior(ABC):
    """A prior under which all weights are independent and identically distributed."""

    @abstractmethod
    def one(self, like: Tensor) -> TorchDistribution:
        """Return p(w) of one weight, with batch shape [] and the type and device of ``like``."""


class NormalWeight(WeightPrior):
    """``w ~ N(0, scale²)``."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = checks.positive_single("scale", scale)

    def one(self, like: Tensor) -> dist.Normal:
        return dist.Normal(like.new_zeros(()), like.new_full((), self.scale))


class ScaleMixture(WeightPrior):
    """``w ~ share · N(0, wide²) + (1 − share) · N(0, narrow²)`` (Blundell et al. 2015).

    The narrow part draws most weights to 0; the wide one leaves the others free.
    """

    def __init__(self, share: float = 0.5, wide: float = 1.0, narrow: float = math.exp(-6)) -> None:
        self.share = checks.number("share", share, 0, 1)
        self.wide, self.narrow = (
            checks.positive_single("wide", wide),
            checks.positive_single("narrow", narrow),
        )
        if self.narrow >= self.wide:
            raise InputError(f"narrow: expected a scale below wide = {self.wide:g}, got {narrow}")

    def one(self, like: Tensor) -> dist.MixtureSameFamily:
        shares, scales = (
            like.new_tensor([self.share, 1 - self.share]),
            like.new_tensor([self.wide, self.narrow]),
        )
        return dist.MixtureSameFamily(dist.Categorical(probs=shares), dist.Normal(like.new_zeros(2), scales))


class StudentWeight(WeightPrior):
    """A normal prior whose variance has a prior, integrated out::

        s² ~ InverseGamma(degrees / 2, degrees · scale² / 2),   w ~ N(0, s²)
        w ~ StudentT(degrees, 0, scale)

    Each weight has its own scale.
    """

    def __init__(self, degrees: float = 2.0, scale: float = 0.1) -> None:
        self.degrees = checks.positive_single("degrees", degrees)
        self.scale = checks.positive_single("scale", scale)

    def one(self, like: Tensor) -> dist.StudentT:
        degrees, scale = like.new_full((), self.degrees), like.new_full((), self.scale)
        return dist.StudentT(degrees, like.new_zeros(()), scale)
