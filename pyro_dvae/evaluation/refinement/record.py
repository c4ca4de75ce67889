"""What refinement changed, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dvae.evaluation.refinement.settings import ANNEALING, Refinement


@dataclass(frozen=True)
class Refined:
    """Which proposal each row was given, and how reliable it was without refinement.

    :param rung: proposal of each row as an index in ``settings.rungs``, [N].
    :param pareto_k_before: Pareto k of the encoder's proposal as a Gaussian, [N], from ``settings.pilot``
        draws.
    :param settings: how the proposals were refined.
    """

    rung: Tensor
    pareto_k_before: Tensor
    settings: Refinement

    @property
    def annealed(self) -> Tensor:
        """Whether a row was annealed, [N]."""
        return self.rung == self.settings.rungs.index(ANNEALING)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each proposal."""
        return {name: int((self.rung == index).sum()) for index, name in enumerate(self.settings.rungs)}

    def share_before(self, threshold: float) -> float:
        """Return the share of rows whose Pareto k was above ``threshold`` before refinement."""
        return float((~(self.pareto_k_before <= threshold)).double().mean())

    def to_dict(self, threshold: float) -> dict[str, Any]:
        """Return the record as JSON-able values, with the share of rows above ``threshold`` before."""
        return {
            "steps": self.settings.num_steps,
            "rows_by_proposal": self.counts,
            "share_unreliable_before": self.share_before(threshold),
        }
