"""The proposal of each row: the encoder, refined Gaussians, or annealing; the first that is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.structure import Program
from pyro_dvae.evaluation.importance.psis import k_threshold
from pyro_dvae.evaluation.refinement.gaussian import Gaussians, arrived, climbed, encoded
from pyro_dvae.evaluation.refinement.settings import ANNEALING, Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.evaluation.refinement.weighing import summary, weighted
from pyro_dvae.rows import Arguments

# Pareto k from a thousand draws has an error of about 0.2, and if few rows are good, most that seem good are
# not. So every proposal but the last must be below this twice.
_GOOD = 0.1
# After the last family, a row above this climbs on from where it is, and so does one that came far: it may
# not have arrived, and far from the posterior the k of a narrow proposal is low by chance.
_FAIR = 0.4
_MORE_CLIMBS = 2
# A row that is above by a quarter of the draws is not looked at again: of the encoder (where the record says
# which rows are above 0.7), and of a Gaussian.
_CLEARLY_BAD = (1.0, 0.5)
_FEWEST = 25  # draws with enough tail to fit


@dataclass(frozen=True)
class ChosenProposals:
    """The proposals of the rows of a chunk.

    :param proposal: index of the proposal in ``settings.proposals``, [N].
    :param annealed: whether no proposal is good enough, so that the row is annealed, [N].
    :param before: Pareto k of the encoder's proposal, from the pilot draws, [N].
    :param groups: rows and Gaussians of each proposal; annealed rows start from theirs.
    """

    proposal: Tensor
    annealed: Tensor
    before: Tensor
    groups: tuple[tuple[Tensor, Gaussians], ...]


def ascended(
    targets: Targets, guide: Program, rows: Arguments, settings: Refinement, defensive: float = 0.0
) -> ChosenProposals:
    """Give each row the first proposal with a good Pareto k, estimated from fresh pilot draws.

    A row that no proposal suits keeps the last one, which has the best bound, and is left to annealing if
    there is any.
    """

    def pilot(proposal: Gaussians, some: Arguments, count: int = settings.pilot) -> Tensor:
        own, from_prior = shares(count, defensive)
        return summary(weighted(targets, some, proposal, own, from_prior)[1], proposal.loc.dtype)["pareto_k"]

    def pareto_k(proposal: Gaussians, some: Arguments, clearly_bad: float) -> Tensor:
        k = pilot(proposal, some, max(_FEWEST, settings.pilot // 4))
        for limit in (clearly_bad, _GOOD):  # the remaining rows with all draws, twice
            left = (k <= limit).nonzero()[:, 0]
            if len(left):
                again = pilot(proposal[left], some[left])
                k[left] = again if limit == clearly_bad else torch.maximum(k[left], again)
        return k

    stages = [(0, torch.arange(len(rows)), encoded(targets, guide, rows))]
    k = pareto_k(stages[0][2], rows, _CLEARLY_BAD[0])
    before, latest = k.clone(), torch.zeros(len(rows), dtype=torch.long)
    far = torch.zeros(len(rows), dtype=torch.bool)
    climbs = list(enumerate(settings.families, start=1))
    for index, family in climbs + climbs[-1:] * _MORE_CLIMBS:
        last = stages[-1]
        is_last, again = index == len(settings.families), index == last[0]
        waiting = (far | ~(k <= (_FAIR if again else _GOOD))).nonzero()[:, 0]
        if not len(waiting):
            break
        some, start = rows[waiting], last[2][torch.searchsorted(last[1], waiting)]
        proposal = climbed(targets, some, start, family, settings)
        wide = proposal.widened(settings.widen)
        k[waiting] = pilot(wide, some) if is_last else pareto_k(wide, some, _CLEARLY_BAD[1])
        far[waiting] = ~arrived(start, proposal, family, settings).cpu()
        latest[waiting] = len(stages)
        stages.append((index, waiting, proposal))
    indices, groups = torch.zeros(len(rows), dtype=torch.long), []
    for number, (index, which, proposal) in enumerate(stages):
        own = latest[which] == number
        if bool(own.any()):
            indices[which[own]] = index
            chosen = proposal[own.to(proposal.loc.device)]
            groups.append((which[own], chosen.widened(settings.widen) if index else chosen))
    annealed = ~(k <= k_threshold(settings.pilot)) & (settings.annealing_steps > 0)
    indices[annealed] = settings.proposals.index(ANNEALING)
    return ChosenProposals(indices, annealed, before, tuple(groups))


def shares(count: int, defensive: float) -> tuple[int, int]:
    """Return how many of ``count`` draws come from the proposal and from the prior."""
    from_prior = max(2, round(count * defensive)) if defensive else 0
    return max(1, count - from_prior), from_prior
