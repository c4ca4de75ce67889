"""Exact conditioning of models whose latents are all discrete, by a sum over their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import AnnealedPrograms
from pyro_dvae.evaluation.annealing.scoring import GivenScores
from pyro_dvae.evaluation.annealing.structure import Structure, inspect
from pyro_dvae.rows import Arguments, Data

Program = Callable[..., Any]
_BYTES_PER_CELL = 64  # for each combination


@torch.no_grad()
def enumerated(model: Program, given: Data, nesting: int | float) -> Enumerated | None:
    """Return the exact posterior of the latents of ``model``, or None unless all of them are discrete.

    :raises InputError: their values cannot be listed, or there are more than 10,000 combinations.
    """
    structure = inspect(model, None, given, nesting, all_discrete=True)
    return None if structure.latents else Enumerated(model, structure)


@dataclass(frozen=True)
class Enumerated:
    """The posterior of the latents of each row over all C combinations of their values."""

    model: Program
    structure: Structure

    @property
    def count(self) -> int:
        """C."""
        return self.structure.combinations

    def every(self) -> GivenScores:
        """Return a handler that sets the latents to all combinations, one for each chain."""
        return GivenScores(self.structure, self.structure.placed(torch.arange(self.count)[:, None]))

    def rows(self, cells_of_row: int, num_draws: int, memory: int) -> int:
        """Return how many rows fit into the memory."""
        return max(1, memory // (_BYTES_PER_CELL * cells_of_row * max(self.count, num_draws)))

    def log_joint(self, rows: Arguments) -> Tensor:
        """Return log p(x_observed, z) for every combination, [C, N], float64 (nats)."""
        scores = self.every()
        AnnealedPrograms(self.model, None, rows, self.structure, {}).run(self.model, scores)
        whole = torch.as_tensor(scores.latents + scores.observed, dtype=torch.float64)
        return whole.expand(self.count, len(rows))

    def drawn(self, log_joint: Tensor, count: int) -> GivenScores:
        """Return a handler that sets the latents of each row to ``count`` independent draws."""
        picked = torch.multinomial(log_joint.softmax(0).T, count, replacement=True).T  # [count, N]
        return GivenScores(self.structure, self.structure.placed(picked))
