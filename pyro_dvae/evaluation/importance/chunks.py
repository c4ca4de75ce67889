"""The estimates of chunks of rows with one proposal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.arguments import rows_of
from pyro_dvae.evaluation.importance.plan import (
    ROWS_IN_CACHE,
    ROWS_ON_ACCELERATOR,
    Plan,
    Run,
    allocated_bytes,
    fastest,
    plan,
)
from pyro_dvae.evaluation.importance.programs import SampledPrograms
from pyro_dvae.evaluation.importance.proposals import Pass
from pyro_dvae.evaluation.importance.tally import Tally
from pyro_dvae.random_state import forked

BOUND, WEIGHT = "bound_by_samples", "log_weight"
_ROUNDING = 300  # relative rounding error, in ulps, of a sum of a thousand terms


@dataclass(frozen=True)
class SampledChunks(Plan):
    """The estimates of ``log_likelihood`` for chunks of rows, with one proposal for all of them.

    :param programs: model and guide with all rows.
    :param keep: keep the log weights.
    :param compiled: compile a pass; None does so if it saves time.
    :param bfloat16: round the factors of matrix products.
    """

    programs: SampledPrograms
    keep: bool
    compiled: bool | None
    bfloat16: bool

    @classmethod
    def planned(
        cls,
        programs: SampledPrograms,
        smallest: Pass,
        num_samples: int,
        memory: int,
        keep: bool,
        compiled: bool | None,
        bfloat16: bool,
    ) -> SampledChunks:
        """Split rows and draws so that they fit into memory."""
        few = programs.rows(0, min(2, programs.num_data))
        with forked(), rows_of(len(few[0]), programs.num_data):
            taken = allocated_bytes(lambda: programs.log_weights(smallest, *few))
        row_bytes = -(-taken // (smallest.num_draws * len(few[0])))
        at_once = ROWS_IN_CACHE if few[0].device.type == "cpu" else ROWS_ON_ACCELERATOR
        cut = plan(num_samples, programs.num_data, smallest, at_once, memory, row_bytes)
        return cls(cut.one, cut.passes, cut.data, cut.block, programs, keep, compiled, bfloat16)

    def prepared(
        self, example: tuple[Tensor, ...], chunks: int
    ) -> Callable[[tuple[Tensor, ...], int], dict[str, Tensor]]:
        """Return a function of a chunk's rows, and the number of them that count, to estimates."""

        def run(*rows: Tensor) -> Tensor:
            return self.programs.log_weights(self.one, *rows)

        times = chunks * self.passes
        fast = fastest(run, example, times, compiled=self.compiled, bfloat16=self.bfloat16)

        def estimated(rows: tuple[Tensor, ...], count: int) -> dict[str, Tensor]:
            return {name: values[:count] for name, values in self._results(fast, rows).items()}

        return estimated

    def _results(self, run: Run, rows: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the results of a chunk, by name, each [rows, ...]."""
        data = len(rows[0])
        tally, convergence = Tally(self.num_samples, data), self.convergence(data)
        kept = []
        for first in range(0, self.passes, self.block):
            count = min(self.block, self.passes - first)
            log_weight = torch.stack([run(*rows) for _ in range(count)]).cpu()
            if bool(log_weight.isnan().any()):
                raise InputError(
                    "model, guide: expected log-densities, got NaN for an observation and a latent; leave "
                    "out rows with huge values, or use condition, which marks them as not reliable"
                )
            tally.add(self.one.split(log_weight))
            convergence.add(log_weight)
            if self.keep:
                kept.append(log_weight.flatten(0, 1))
        eps = torch.finfo(log_weight.dtype).eps
        results = tally.results(_ROUNDING * eps, eps) | {BOUND: convergence.results()}
        if self.keep:
            results[WEIGHT] = torch.cat(kept).T.contiguous()
        return results
