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

# A k from a thousand draws errs by about 0.2: a row twice below this is rarely above 0.7 with all its draws.
_GOOD = 0.3


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

    def pilot(proposal: Gaussians, some: Arguments) -> Tensor:
        own, from_prior = shares(settings.pilot, defensive)
        return summary(weighted(targets, some, proposal, own, from_prior)[1])["pareto_k"]

    def pareto_k(proposal: Gaussians, some: Arguments) -> Tensor:
        k = pilot(proposal, some)
        good = (~_bad(k)).nonzero()[:, 0]
        if len(good):  # again: of many rows some are below by chance
            k[good] = torch.maximum(k[good], pilot(proposal[good], some[good]))
        return k

    stages = [(torch.arange(len(rows)), encoded(targets, guide, rows))]
    before = pareto_k(stages[0][1], rows)
    best, rung = before.clone(), torch.zeros(len(rows), dtype=torch.long)
    waiting = _bad(best).nonzero()[:, 0]
    for index, family in enumerate(settings.families, start=1):
        if not len(waiting):
            break
        last, some = stages[-1], rows[waiting]
        start = last[1][torch.searchsorted(last[0], waiting)]
        proposal = climbed(targets, some, start, family, settings)
        stages.append((waiting, proposal))
        k = pareto_k(proposal.widened(settings.widen), some)
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
