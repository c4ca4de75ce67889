"""The validation bound of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_dvae.calling import calling
from pyro_dvae.distributed import Ranks
from pyro_dvae.programs.parameters import Trained
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.rows import Data
from pyro_dvae.sites import clean_input
from pyro_dvae.training.objective import PlateScale

CHUNK = 4  # validation rows at a time, in batch sizes


@dataclass(frozen=True)
class Validation:
    """``evaluate``, or else the mean of -``loss`` over the rows of ``data``, on clean input; nats per datum.

    ``loss`` takes the parts of a chunk and returns its negative bound, summed, of which the scale of a plate
    is taken out; ``proceed`` is called after every chunk and may raise to end it. Of several ``ranks`` each
    takes its share of ``data``, if the loss is
    ``of_single_data`` alone; all call ``evaluate``, and what it returns on rank 0 counts.
    """

    data: Data | None
    evaluate: Callable[[], float] | None
    chunk: int
    loss: Callable[..., Tensor | float]
    proceed: Callable[[], None]
    ranks: Ranks = field(default_factory=Ranks)
    of_single_data: bool = True

    def bound(self, trained: Trained, seed: int, epoch: int) -> float | None:
        """Return the bound, with draws that depend on ``seed`` and ``epoch`` alone; None without data."""
        if self.evaluate is None and self.data is None:
            return None
        shared = self.evaluate is None and self.of_single_data
        own = ("rank", self.ranks.rank) if shared and not self.ranks.first else ()
        with forked(derived_seed(seed, epoch, "validation", *own)), trained.evaluating():
            if shared:
                return self._mean(self.ranks)
            return float(self.ranks.of_first(self._mean() if self.evaluate is None else self._evaluated()))

    def _evaluated(self) -> float:
        assert self.evaluate is not None
        with calling("evaluate"):
            return float(self.evaluate())

    def _mean(self, ranks: Ranks | None = None) -> float:
        assert self.data is not None
        ranks = ranks or Ranks()
        losses = []
        with torch.no_grad(), clean_input():
            for rows in self.data.part(ranks.share(len(self.data))).split(self.chunk):
                with PlateScale(len(rows)) as scale, calling("model, guide, validation"):
                    loss = float(self.loss(*rows.rows))
                losses.append(loss / scale.factor)
                self.proceed()
        return -ranks.sum([math.fsum(losses)])[0] / len(self.data)
