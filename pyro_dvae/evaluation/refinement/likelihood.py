"""log p(x) of each row by importance sampling with refined proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.structure import Program
from pyro_dvae.evaluation.importance.tally import Convergence, Tally
from pyro_dvae.evaluation.refinement.chosen_proposals import ascended, shares
from pyro_dvae.evaluation.refinement.gaussian import Gaussians
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.evaluation.refinement.weighing import RESOLUTION, chains, require_known, summary, weighted
from pyro_dvae.rows import Arguments

_ROWS = 1000  # per chunk: enough for the rows of the last proposal to fill a block
_BYTES_PER_NUMBER = 64  # of the draws of a pass: positions, noise and densities in float64
_BYTES_PER_ENTRY = 40  # of a covariance: parameter, gradient, Adam's moments, copies


@dataclass(frozen=True)
class RefinedChunks:
    """The estimates of ``log_likelihood`` for chunks of rows, with refined proposals.

    :param targets: the posteriors of all rows.
    :param guide: the encoder.
    :param settings: of the refinement.
    :param defensive: share of draws from the prior.
    :param keep: keep the log weights.
    :param data: rows per chunk.
    :param draws: draws per row and pass.
    :param passes: number of passes of the estimate.
    """

    targets: Targets
    guide: Program
    settings: Refinement
    defensive: float
    keep: bool
    data: int
    draws: int
    passes: int

    @classmethod
    def planned(
        cls,
        targets: Targets,
        guide: Program,
        rows: int,
        settings: Refinement,
        num_samples: int,
        defensive: float,
        keep: bool,
    ) -> RefinedChunks:
        """Split rows and draws so that they fit into the memory of the targets."""
        size, memory = targets.size, targets.memory // 4
        entries = size * ((size if "full" in settings.families else 0) + 20)
        data = max(1, min(_ROWS, rows, memory // (_BYTES_PER_ENTRY * entries)))
        most = max(sum(shares(2, defensive)), memory // (_BYTES_PER_NUMBER * data * (size + 2)))
        passes = -(-num_samples // most)
        draws = max(sum(shares(2, defensive)), -(-num_samples // passes))
        return cls(targets, guide, settings, defensive, keep, data, draws, passes)

    @property
    def num_samples(self) -> int:
        """The total number of draws of each row."""
        return self.draws * self.passes

    @property
    def cut(self) -> list[int]:
        """The numbers of passes, draws and rows, which determine the random numbers."""
        return [self.passes, self.draws, self.data]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of samples of the mean estimates."""
        return tuple(self.convergence(1).sizes)

    def convergence(self, data: int) -> Convergence:
        """Return an empty record of means by number of samples."""
        return Convergence(self.draws, self.passes, 0 if self.defensive else 1, data)

    def prepared(
        self, example: tuple[Tensor, ...], chunks: int
    ) -> Callable[[tuple[Tensor, ...], int], dict[str, Tensor]]:
        """Return a function of a chunk's rows, and the number of them that count, to estimates."""
        self.targets.expect(len(example[0]) * chunks)

        def estimated(rows: tuple[Tensor, ...], count: int) -> dict[str, Tensor]:
            return self(Arguments(rows, self.targets.kwargs)[:count])

        return estimated

    def __call__(self, rows: Arguments) -> dict[str, Tensor]:
        """Return the results of some rows, by name, each [N, ...]; the Pareto k of annealed rows is NaN."""
        found = ascended(self.targets, self.guide, rows, self.settings, self.defensive)
        results: dict[str, Tensor] = {}
        for which, proposal in found.groups:
            some = rows[which]
            part = self._sampled(some, proposal)
            annealed = found.annealed[which].nonzero()[:, 0]
            if len(annealed):
                _, log_weight = chains(self.targets, some[annealed], proposal[annealed], self.settings)
                for name, value in summary([log_weight[None]], proposal.loc.dtype).items():
                    part[name][annealed] = value
                part["smoothed_log_likelihood"][annealed] = part["log_likelihood"][annealed]
                part["pareto_k"][annealed] = torch.nan
            for name, value in part.items():
                results.setdefault(name, value.new_empty(len(rows), *value.shape[1:]))[which] = value
        require_known(results["log_likelihood"])
        results["proposal"] = found.proposal
        results["pareto_k_before"] = found.before
        return results

    def _sampled(self, rows: Arguments, proposal: Gaussians) -> dict[str, Tensor]:
        own, from_prior = shares(self.draws, self.defensive)
        tally, convergence = Tally(self.num_samples, len(rows)), self.convergence(len(rows))
        kept = []
        for _ in range(self.passes):
            parts = weighted(self.targets, rows, proposal, own, from_prior)[1]
            tally.add(parts)
            whole = torch.cat(parts, 1)
            convergence.add(whole)
            if self.keep:
                kept.append(whole[0].to(proposal.loc.dtype))
        results = tally.results(RESOLUTION, torch.finfo(proposal.loc.dtype).eps) | {
            "bound_by_samples": convergence.results()
        }
        if self.keep:
            results["log_weight"] = torch.cat(kept).T.contiguous()
        return results
