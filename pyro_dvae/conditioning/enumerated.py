"""Exact conditioning of models whose latents are all discrete, by a sum over their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.density import AnnealedPrograms
from pyro_dvae.evaluation.annealing.scoring import GivenScores
from pyro_dvae.evaluation.annealing.structure import ProperLatents, Structure, inspect
from pyro_dvae.programs.plates import is_deterministic
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data

Program = Callable[..., Any]
_MOST = 10_000  # combinations of values
_BYTES_PER_CELL = 64  # for each combination


@torch.no_grad()
def enumerated(model: Program, given: Data, nesting: int | float) -> Enumerated | None:
    """Return the exact posterior of the latents of ``model``, or None unless all of them are discrete.

    :raises InputError: their values cannot be listed, or there are more than 10,000 combinations.
    """
    rows = given[:2]
    with forked(), poutine.block():
        trace = poutine.trace(ProperLatents()(model)).get_trace(*rows.rows, **rows.kwargs)
    latents = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not (site["is_observed"] or site_is_subsample(site) or is_deterministic(site))
    }
    if not latents or not all(_is_discrete(site["fn"]) for site in latents.values()):
        return None
    structure = inspect(model, None, given, nesting, discrete=True)
    lists = [_values(name, site, structure) for name, site in latents.items()]
    count = math.prod(len(each) for each in lists)
    if count > _MOST:
        raise InputError(
            f"model: the latents have {count:,} combinations of values, of which at most {_MOST:,} can be "
            "summed over; use continuous latents, or fewer discrete ones"
        )
    index = torch.cartesian_prod(*[torch.arange(len(each)) for each in lists]).reshape(count, -1)
    one = (1,) * structure.nesting
    values = {
        name: each[index[:, number]].reshape(count, *one, *each.shape[1:])
        for number, (name, each) in enumerate(zip(latents, lists, strict=True))
    }
    return Enumerated(model, structure, values, count)


@dataclass(frozen=True)
class Enumerated:
    """The posterior of the latents of each row over all C combinations of their values.

    :param values: of each latent, [C, *plates of size 1, *event].
    :param count: C.
    """

    model: Program
    structure: Structure
    values: dict[str, Tensor]
    count: int

    def rows(self, cells_of_row: int, num_draws: int, memory: int) -> int:
        """Return how many rows fit into the memory."""
        return max(1, memory // (_BYTES_PER_CELL * cells_of_row * max(self.count, num_draws)))

    def log_joint(self, rows: Arguments) -> Tensor:
        """Return log p(x_observed, z) for every combination, [C, N], float64 (nats)."""
        scores = GivenScores(self.structure, self.values)
        AnnealedPrograms(self.model, None, rows, self.structure, {}).run(self.model, scores)
        whole = torch.as_tensor(scores.latents + scores.observed, dtype=torch.float64)
        return whole.expand(self.count, len(rows))

    def drawn(self, log_joint: Tensor, count: int) -> GivenScores:
        """Return a handler that sets the latents of each row to ``count`` independent draws."""
        picked = torch.multinomial(log_joint.softmax(0).T, count, replacement=True).T  # [count, N]
        plates = [1] * self.structure.nesting
        plates[self.structure.data_dim] = picked.shape[1]
        chosen = {}
        for name, value in self.values.items():
            event = value.shape[1 + len(plates) :]
            index = picked.reshape(count, *plates, *[1] * len(event)).expand(count, *plates, *event)
            chosen[name] = value.expand(-1, *plates, *event).gather(0, index)
        return GivenScores(self.structure, chosen)


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


def _values(name: str, site: dict[str, Any], structure: Structure) -> Tensor:
    """Return the values of a latent, [V, *event]."""
    fn = site["fn"]
    plates = [frame.dim for frame in site["cond_indep_stack"] if frame.vectorized]
    try:
        if plates != [structure.data_dim]:
            raise NotImplementedError
        values: Tensor = fn.enumerate_support(expand=False)
    except NotImplementedError:
        raise InputError(
            f"model: the values of the discrete latent {name!r} cannot be listed: it is a vector, has "
            "infinitely many values, or lies in a plate within a row; give each variable its own site"
        ) from None
    return values.reshape(len(values), *fn.event_shape)
