"""How the draws of all data are cut into passes that fit the memory and the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyro_dvae.evaluation.importance.proposals import Pass, Proposal

# Of a CPU: inputs of the decoder at once, so few that what it computes of them stays in the cache.
ROWS_IN_CACHE = 2000
ROWS_ON_ACCELERATOR = 500_000
# Data at once: fewer mean less work on the data themselves, more that few draws of each are summed together.
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 4, 20
_WEIGHTS_AT_ONCE = 8_000  # of a chunk: from here on their sums cost little beside the decoder
_BYTES_PER_WEIGHT = 80  # of a block of log weights: float64 copies, exponentials and the sorting of the tail
_BLOCK_AT_MOST = 1_000_000  # log weights; more at once brings no speed


@dataclass(frozen=True)
class Plan:
    """Chunks of ``data`` rows, each in ``passes`` runs of ``one``; ``block`` passes are summed together."""

    one: Pass
    passes: int
    data: int
    block: int

    @property
    def num_samples(self) -> int:
        """The draws of each datum in all."""
        return self.one.num_draws * self.passes


def smallest_pass(proposal: Proposal, nesting: int | float, noisy: bool) -> Pass:
    """Return the smallest pass that has a variance: two draws of each kind."""
    return Pass(proposal, 2, 2 if proposal.defensive else 0, nesting, noisy)


def plan(
    num_samples: int, num_data: int, smallest: Pass, rows_at_once: int, memory: int, row_bytes: int
) -> Plan:
    """Cut ``num_samples`` draws of ``num_data`` data into equal passes.

    All passes are alike, so ``num_samples`` is rounded up to whole ones: by less than the number of strata
    and passes.

    :param rows_at_once: draws × data of a pass, at most, where the smallest pass allows it.
    :param memory: bytes, at most.
    :param row_bytes: bytes of a draw of a datum.
    """
    proposal = smallest.proposal
    rows = max(smallest.num_draws, min(rows_at_once, memory // 2 // row_bytes))
    # Of a mixture each datum is M data to the guide.
    most = max(_FEWEST_AT_ONCE, _MOST_AT_ONCE // proposal.strata)
    at_once = min(most, max(_FEWEST_AT_ONCE, _WEIGHTS_AT_ONCE // num_samples))
    share = max(1, min(at_once, num_data, rows // smallest.num_draws))
    passes = -(-num_samples // max(smallest.num_draws, rows // share))
    wanted = -(-num_samples // passes)
    from_prior = max(2, round(wanted * proposal.defensive)) if proposal.defensive else 0
    per_stratum = max(1, -(-(wanted - from_prior) // proposal.strata))
    one = replace(smallest, per_stratum=per_stratum, from_prior=from_prior)
    data = max(1, min(num_data, rows // one.num_draws))
    block_rows = max(1, min(_BLOCK_AT_MOST, memory // 2 // _BYTES_PER_WEIGHT))
    block = max(1, min(passes, block_rows // (one.num_draws * data)))
    return Plan(one, passes, data, block)
