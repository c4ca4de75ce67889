"""The rungs of a row: the encoder's proposal, refined Gaussians, annealing; the first good one is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.structure import Program
from pyro_dvae.evaluation.importance.psis import k_threshold
from pyro_dvae.evaluation.refinement.gaussian import Gaussians, climbed, encoded
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.evaluation.refinement.weighing import summary, weighted
from pyro_dvae.rows import Arguments

# A k from a thousand draws errs by about 0.2, and where few rows are good, most that seem so are not. So a
# proposal before the last must be twice below this.
_GOOD = 0.1
# A row that is above by a quarter of the draws is not looked at again: of the encoder (where the record says
# which rows are above 0.7), and of a Gaussian.
_CLEARLY_BAD = (1.0, 0.5)
_FEWEST = 25  # draws that have a tail to fit


@dataclass(frozen=True)
class Rungs:
    """What the rows of a chunk climbed to.

    :param rung: 0 for the encoder's proposal, else the number of the family, from 1, [N].
    :param annealed: whether no proposal suits the row, and it is left to annealing, [N].
    :param before: Pareto k of the encoder's proposal, from the pilot draws, [N].
    :param groups: rows and proposals of each rung; rows that are annealed start from theirs.
    """

    rung: Tensor
    annealed: Tensor
    before: Tensor
    groups: tuple[tuple[Tensor, Gaussians], ...]


def ascended(
    targets: Targets, guide: Program, rows: Arguments, settings: Refinement, defensive: float = 0.0
) -> Rungs:
    """Take each row to the first rung whose Pareto k, from fresh pilot draws, is good.

    A row that no rung suits keeps the proposal with the lowest k, and is left to annealing if there is any.
    """

    def pilot(proposal: Gaussians, some: Arguments, count: int = settings.pilot) -> Tensor:
        own, from_prior = shares(count, defensive)
        return summary(weighted(targets, some, proposal, own, from_prior)[1])["pareto_k"]

    def pareto_k(proposal: Gaussians, some: Arguments, clearly_bad: float) -> Tensor:
        k = pilot(proposal, some, max(_FEWEST, settings.pilot // 4))
        for limit in (clearly_bad, _GOOD):  # those that are left, with all draws, and again
            left = (k <= limit).nonzero()[:, 0]
            if len(left):
                again = pilot(proposal[left], some[left])
                k[left] = again if limit == clearly_bad else torch.maximum(k[left], again)
        return k

    stages = [(torch.arange(len(rows)), encoded(targets, guide, rows))]
    before = pareto_k(stages[0][1], rows, _CLEARLY_BAD[0])
    best, rung = before.clone(), torch.zeros(len(rows), dtype=torch.long)
    waiting = _bad(best).nonzero()[:, 0]
    for index, family in enumerate(settings.families, start=1):
        is_last = index == len(settings.families)
        if not len(waiting):
            break
        last, some = stages[-1], rows[waiting]
        start = last[1][torch.searchsorted(last[0], waiting)]
        proposal = climbed(targets, some, start, family, settings)
        stages.append((waiting, proposal))
        wide = proposal.widened(settings.widen)
        k = pilot(wide, some) if is_last else pareto_k(wide, some, _CLEARLY_BAD[1])
        better = waiting[k < best[waiting]]
        rung[better] = index
        best[waiting] = torch.minimum(best[waiting], k)
        waiting = waiting[_bad(best[waiting])]
    annealed = torch.zeros(len(rows), dtype=torch.bool)
    hopeless = ~(best[waiting] <= k_threshold(settings.pilot))
    annealed[waiting] = hopeless & (settings.annealing_steps > 0)
    groups = []
    for index, (which, proposal) in enumerate(stages):
        own = rung[which] == index
        if bool(own.any()):
            chosen = proposal[own.to(proposal.loc.device)]
            groups.append((which[own], chosen.widened(settings.widen) if index else chosen))
    return Rungs(rung, annealed, before, tuple(groups))


def shares(count: int, defensive: float) -> tuple[int, int]:
    """Return how many of ``count`` draws come from the proposal and from the prior."""
    from_prior = max(2, round(count * defensive)) if defensive else 0
    return max(1, count - from_prior), from_prior


def _bad(k: Tensor) -> Tensor:
    return ~(k <= _GOOD)
