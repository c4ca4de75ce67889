"""The settings of refinement, and its result for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown

FAMILIES = ("diagonal", "full")
ENCODER, ANNEALING = "encoder", "annealing"


@dataclass(frozen=True)
class Refinement:
    """How proposals are refined row by row, for ``log_likelihood(..., refine=...)`` and ``condition``.

    A row starts with the encoder's proposal. While the Pareto k of a few pilot draws is bad, it takes the
    next proposal: Gaussians of the ``families`` in turn, each fitted by ``num_steps`` Adam steps on the bound
    of the row, and finally annealing from the best Gaussian. The estimate itself uses fresh draws. With many
    hundred latents, where a full covariance is expensive, try ``families=("diagonal", "full")``.

    :param num_steps: Adam steps on the bound of a row; a full covariance takes twice as many.
    :param num_draws: draws per step and row.
    :param learning_rate: learning rate, which falls to 0 along a cosine.
    :param families: ``"diagonal"`` and ``"full"`` (covariance) in the order in which they are tried.
    :param widen: factor of the scale after the fit, because the Gaussian with the best bound is too narrow.
    :param pilot: draws that decide whether a proposal is good enough.
    :param annealing_steps: temperatures for rows that no Gaussian suits; 0 turns annealing off.
    :param num_chains: annealing chains per row.
    """

    num_steps: int = 75
    num_draws: int = 4
    learning_rate: float = 0.025
    families: tuple[str, ...] = ("full",)
    widen: float = 1.1
    pilot: int = 1000
    annealing_steps: int = 100
    num_chains: int = 16

    def __post_init__(self) -> None:
        checks.count("num_steps", self.num_steps)
        checks.count("num_draws", self.num_draws)
        checks.positive("learning_rate", self.learning_rate)
        checks.scale_factor("widen", self.widen)
        if not isinstance(self.families, tuple | list):
            raise InputError(f"families: expected a tuple of names, got {shown(self.families)}")
        for family in self.families:
            checks.known("families", family, FAMILIES)
        if len(set(self.families)) < len(self.families):
            raise InputError(f"families: expected each name once, got {shown(self.families)}")
        checks.count("pilot", self.pilot, minimum=25)  # fewer have no tail to fit
        checks.count("annealing_steps", self.annealing_steps, minimum=0)
        checks.count("num_chains", self.num_chains, minimum=2)

    @property
    def proposals(self) -> tuple[str, ...]:
        """The names of the proposals, from the cheapest."""
        return (ENCODER, *self.families, ANNEALING)

    @classmethod
    def of(cls, value: Any) -> Refinement | None:
        """Return the settings for ``refine``: the defaults for True, a number as steps, None for False.

        :raises InputError: ``refine`` is none of these.
        """
        if value is None or value is False:
            return None
        checks.gradients()
        if value is True:
            return cls()
        if isinstance(value, int):
            return cls(num_steps=checks.count("refine", value))
        return checks.instance("refine", value, cls, "True, False, a number of steps or a Refinement")


@dataclass(frozen=True)
class Refined:
    """The proposal of each row, and its reliability without refinement.

    :param proposal: proposal of each row as an index in ``settings.proposals``, [N].
    :param pareto_k_before: Pareto k of the encoder's proposal as a Gaussian, [N], from ``settings.pilot``
        draws (a quarter of them where it is clearly bad).
    :param settings: how the proposals were refined.
    """

    proposal: Tensor
    pareto_k_before: Tensor
    settings: Refinement

    @property
    def annealed(self) -> Tensor:
        """Whether each row was annealed, [N]."""
        return self.proposal == self.settings.proposals.index(ANNEALING)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each proposal."""
        return {
            name: int((self.proposal == index).sum()) for index, name in enumerate(self.settings.proposals)
        }

    def share_before(self, threshold: float) -> float:
        """Return the share of rows whose Pareto k was above ``threshold`` before refinement."""
        return float((~(self.pareto_k_before <= threshold)).double().mean())

    def to_dict(self, threshold: float) -> dict[str, Any]:
        """Return the record as JSON-able values, with the share of rows above ``threshold`` before."""
        return {
            "steps": int(self.settings.num_steps),
            "rows_by_proposal": self.counts,
            "share_unreliable_before": self.share_before(threshold),
        }
