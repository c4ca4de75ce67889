"""The validation bound of a training run: computed apart from its random streams and in evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.sites import clean_input
from pyro_dvae.training.parameters import Trained


@dataclass(frozen=True)
class Validation:
    """``evaluate``, or else the mean of -``loss`` over the rows of ``data``, on clean input; nats per datum.

    ``loss`` takes a chunk and returns its negative bound, summed; ``proceed`` is called after every chunk and
    may raise to end it.
    """

    data: Tensor | None
    evaluate: Callable[[], float] | None
    chunk: int
    loss: Callable[[Tensor], Tensor | float]
    proceed: Callable[[], None]

    def bound(self, trained: Trained, seed: int, epoch: int) -> float | None:
        """Return the bound, with draws that depend on ``seed`` and ``epoch`` alone; None without data."""
        if self.evaluate is None and self.data is None:
            return None
        with forked(derived_seed(seed, epoch, "validation")), trained.evaluating():
            return float(self._mean() if self.evaluate is None else self.evaluate())

    def _mean(self) -> float:
        assert self.data is not None
        losses = []
        with torch.no_grad(), clean_input():
            for rows in self.data.split(self.chunk):
                losses.append(float(self.loss(rows)))
                self.proceed()
        return -math.fsum(losses) / len(self.data)
