"""Ways to make grey values in [0, 1] binary, or to keep them unchanged.

Each has two steps: ``prepare`` for a whole part, once, and ``visit`` for every batch of it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.datasets.base import Dataset


class Binarisation:
    """Leave the values unchanged; subclasses override the steps."""

    name: ClassVar[str] = "none"

    def prepare(self, data: Tensor, seed: int) -> Tensor:
        """Return the tensor to keep for training; draws, if any, depend only on ``seed``."""
        return self._keep(self._checked(data), checks.count("seed", seed, minimum=0))

    def prepare_evaluation(self, data: Tensor, seed: int) -> Tensor:
        """Return the tensor to keep for evaluation; ``visit`` does not change it, so that results repeat."""
        return self.prepare(data, seed)

    def visit(self, batch: Tensor) -> Tensor:
        """Return the model's input for a prepared batch, in the default floating type."""
        return batch.to(torch.get_default_dtype())

    def _keep(self, data: Tensor, seed: int) -> Tensor:
        return data

    def _checked(self, data: Tensor) -> Tensor:
        return checks.finite("data", data) if self.name == "none" else checks.unit_interval("data", data)


class StaticBinarisation(Binarisation):
    """One Bernoulli draw of each value, made in advance and kept (as bytes)."""

    name = "static"

    def _keep(self, data: Tensor, seed: int) -> Tensor:
        # On the CPU for any device, so that a seed gives the same data set everywhere.
        generator = torch.Generator().manual_seed(seed)
        return torch.bernoulli(data.detach().cpu(), generator=generator).to(data.device, torch.uint8)


class DynamicBinarisation(Binarisation):
    """A fresh Bernoulli draw at each visit, from the global generator; evaluation parts are drawn once."""

    name = "dynamic"

    def prepare_evaluation(self, data: Tensor, seed: int) -> Tensor:
        """Draw the part once from ``seed``; ``visit`` does not change it."""
        return StaticBinarisation().prepare(data, seed)

    def visit(self, batch: Tensor) -> Tensor:
        """Return a new draw of the batch."""
        return torch.bernoulli(super().visit(batch))


class ThresholdBinarisation(Binarisation):
    """One where the value is above a half, else zero (as bytes)."""

    name = "threshold"

    def _keep(self, data: Tensor, seed: int) -> Tensor:
        return (data > 0.5).to(torch.uint8)


_WAYS = {
    way.name: way for way in (Binarisation, StaticBinarisation, DynamicBinarisation, ThresholdBinarisation)
}


def binarisation_names() -> tuple[str, ...]:
    """Return the names that :func:`binarisation` accepts."""
    return tuple(sorted(_WAYS))


def binarisation(name: str) -> Binarisation:
    """Return the binarisation with this name."""
    return _WAYS[checks.known("binarisation", name, _WAYS)]()


def binarise_dataset(dataset: Dataset, name: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prepare the train, validation and test parts, each with its own draws derived from ``seed``.

    With ``dynamic``, only the training part stays grey and is drawn anew at each visit. Validation and test
    parts are drawn once from the seed, so that test results are reproducible. Pass batches of any part
    through ``binarisation(name).visit``.
    """
    way = binarisation(name)
    streams = np.random.SeedSequence(checks.count("seed", seed, minimum=0)).spawn(3)
    train, validation, test = (int(stream.generate_state(1)[0]) for stream in streams)
    return (
        way.prepare(dataset.train, train),
        way.prepare_evaluation(dataset.validation, validation),
        way.prepare_evaluation(dataset.test, test),
    )
