"""The base class of corruptions: modules from clean data to a distribution of corrupted data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.levels import Level
from pyro_dvae.registration import Module


class Corruption(Module, ABC):
    """The corruption ``p_π(x̃|x)``. A subclass gives only the distribution of each element.

    Calling it on clean ``x`` of any shape returns a Pyro distribution of the same shape with independent
    elements. While Pyro's validation is on, ``x`` must be finite.
    """

    @abstractmethod
    def distribution(self, x: Tensor) -> TorchDistribution:
        """Return the distribution of corrupted ``x``, with ``batch_shape`` equal to ``x.shape``."""

    def forward(self, x: Tensor) -> TorchDistribution:
        """Check ``x`` and return the distribution of its corrupted version."""
        checks.floating("x", x)
        for level in self.levels():
            self._check_shape(level, x)
        if is_validation_enabled():
            checks.finite("x", x)
        return self.distribution(x)

    def levels(self) -> list[Level]:
        """Return the levels (rates, scales) of this corruption."""
        return [module for module in self.modules() if isinstance(module, Level)]

    def set_epoch(self, epoch: float) -> None:
        """Set every scheduled level to its value at ``epoch`` (0 for the first)."""
        for level in self.levels():
            level.set_epoch(epoch)

    def row_sizes(self) -> dict[str, int]:
        """Return the number of elements per row of each argument with a value per element."""
        return {
            level.argument: (level.raw if level.learnable else level.value).numel() for level in self.levels()
        }

    @staticmethod
    def _check_shape(level: Level, x: Tensor) -> None:
        shape = (level.raw if level.learnable else level.value).shape
        trailing = x.shape[x.dim() - len(shape) :] if len(shape) <= x.dim() else None
        if trailing is None or any(a not in (1, b) for a, b in zip(shape, trailing, strict=True)):
            raise InputError(
                f"{level.argument}: shape {tuple(shape)} does not broadcast to data of shape {tuple(x.shape)}"
            )


class NoCorruption(Corruption):
    """``x̃ = x``: the denoising bound becomes the ordinary ELBO."""

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Delta(x)
