"""A bound on held-out data, with the rows shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.bounds import DenoisingELBO
from pyro_dvae.distributed.ranks import Ranks, together
from pyro_dvae.evaluation.estimates import Estimate, evaluate_bound
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import derived_seed
from pyro_dvae.rows import Data


def evaluate_bound_over_ranks(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *args: Any,
    loss: DenoisingELBO,
    seed: int | None = None,
    ranks: Ranks | None = None,
    **kwargs: Any,
) -> Estimate:
    """Return what :func:`evaluate_bound` does, of all rows on every rank; a process alone calls just that.

    Every rank calls it with the same arguments and evaluates its share of the rows. Rank 0 draws as a process
    alone does, the others from streams of their own: the figures agree within their Monte Carlo error.

    :param seed: start of the random streams; None draws it from rank 0's global one.
    :param ranks: the present ones, with the caller's remedy for a lost process.
    """
    ranks = Ranks.present() if ranks is None else ranks
    if not ranks.several:
        return evaluate_bound(model, guide, data, *args, loss=loss, seed=seed, **kwargs)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    drawn = int(torch.randint(2**63 - 1, ())) if seed is None else seed
    start = ranks.of_first(drawn)
    own = given.part(ranks.share(len(given)))

    def work() -> Tensor:
        if not len(own):
            return torch.empty(0)
        stream = start if ranks.first else derived_seed(start, "rank", ranks.rank)
        return evaluate_bound(model, guide, own, loss=loss, seed=stream).per_datum

    return Estimate(torch.cat([part for part in together(ranks, work) if len(part)]))
