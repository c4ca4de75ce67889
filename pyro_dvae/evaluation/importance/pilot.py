"""Which proposal to draw from, by a few draws of a few rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_dvae.evaluation.importance.programs import Programs
from pyro_dvae.evaluation.importance.proposals import Pass, Proposal
from pyro_dvae.random_state import derived_seed, forked

AUTO = "auto"
_ROWS, _DRAWS = 16, 100
_WORTH = 0.1  # nats: the mixture runs the encoder M times


def better_on_few(programs: Programs, clean: Proposal, nesting: int | float, noisy: bool, seed: int) -> str:
    """Return ``"mixture"`` where it gives a higher estimate of log p(x) than ``"clean"``, else that.

    Both estimates lie below log p(x) in expectation, so the higher one is nearer. The draws are from streams
    of their own, so the choice does not bias what follows.
    """
    rows = programs.rows(0, min(_ROWS, programs.num_data))
    found: list[Tensor] = []
    for proposal in (clean, replace(clean, kind="mixture")):
        one = Pass(
            proposal, max(2, _DRAWS // proposal.strata), 2 if proposal.defensive else 0, nesting, noisy
        )
        with forked(derived_seed(seed, "pilot")):
            log_weight = programs.log_weights(one, *rows).double()
        found.append(torch.logsumexp(log_weight, 0) - math.log(len(log_weight)))
    gain = found[1] - found[0]
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return "mixture" if float(gain.mean()) > max(_WORTH, 2 * error) else "clean"
