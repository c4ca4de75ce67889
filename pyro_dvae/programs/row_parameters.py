"""Parameters of single rows, as in a guide without an encoder: each belongs to a place in the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.buffers import KeptBuffers
from pyro_dvae.errors import InputError
from pyro_dvae.internals import uncompiled
from pyro_dvae.programs.data_plate import data_plates, leads
from pyro_dvae.programs.parameters import Trained
from pyro_dvae.programs.plates import size_at
from pyro_dvae.random_state import forked

Program = Callable[..., Any]
_RUNS = 5  # with other draws each, and the rows in the other order


class _Used(NamedTuple):
    """Which elements of a parameter have a gradient in the terms of the first and of the last place."""

    first: Tensor
    last: Tensor

    @property
    def apart(self) -> bool:
        """Whether each place uses elements that the other does not use."""
        return bool((self.first & ~self.last).any() and (self.last & ~self.first).any())


def row_parameter(model: Program, guide: Program, batch: tuple[Tensor, ...], trained: Trained) -> str:
    """Return the name of a parameter whose elements belong to single places of a batch; empty without one.

    The first and the last place use different elements of it, and the same ones whichever rows are there. (Of
    a table with a value for each category, they use the elements of their rows' categories.) The programs run
    only if Pyro made a part of the guide, or a parameter has as many values in a dimension as there are rows.

    :param batch: rows of all data arguments, [B, ...] each.
    """
    rows = len(batch[0])
    parts = (part for root in trained.modules.values() for part in root.modules())
    suspect = any(isinstance(part, AutoGuide) for part in parts)
    suspect = suspect or any(rows in leaf.shape for leaf in trained.parameters.values())
    if rows < 2 or not suspect:
        return ""
    left = {name: leaf for name, leaf in trained.parameters.items() if leaf.numel() >= rows}
    before: dict[str, _Used] = {}
    for run in range(_RUNS):
        if not left:
            return ""
        ordered = batch if run % 2 else tuple(part.flip(0) for part in batch)
        found: dict[str, _Used] = {}
        # A program that runs only inside its loss (for several draws at once) has no run of its own.
        with suppress(Exception), KeptBuffers(), forked(run), torch.enable_grad(), uncompiled():
            found = _used(model, guide, ordered, left)
        left = {name: left[name] for name, each in found.items() if _stays(each, before.get(name, each))}
        before = found
    return next(iter(left), "")


def wrong_for_others(name: str, remedy: str) -> str:
    """Return why a parameter with elements of single rows cannot be used for other rows, and the remedies."""
    return (
        f"parameter {name!r} has a value for each row of a batch, so it is wrong for other rows; {remedy}, "
        "or let a network compute the value from the row (an encoder)"
    )


def refuse_other_rows(trained: Trained, argument: str, remedy: str) -> None:
    """Refuse rows other than those of training if a parameter has elements of single rows."""
    if trained.of_rows:
        raise InputError(f"{argument}: {wrong_for_others(trained.of_rows, remedy)}")


def _stays(now: _Used, before: _Used) -> bool:
    return now.apart and torch.equal(now.first, before.first) and torch.equal(now.last, before.last)


def _used(
    model: Program, guide: Program, batch: tuple[Tensor, ...], leaves: Mapping[str, Tensor]
) -> dict[str, _Used]:
    """Return which elements the two places use; nothing if no plate has the rows."""
    rows = len(batch[0])
    of_guide = poutine.trace(guide).get_trace(*batch)
    of_model = poutine.trace(poutine.replay(model, trace=of_guide)).get_trace(*batch)
    observed = [of_model.nodes[name] for name in of_model.observation_nodes]
    # A plate of the columns may have as many elements as there are rows.
    plates = {name for name in data_plates(observed, rows) if any(leads(site, name) for site in observed)}
    terms = []
    for trace in (of_guide, of_model):
        trace.compute_log_prob()
        sites = (each for each in trace.nodes.values() if each["type"] == "sample")
        sites = (each for each in sites if not site_is_subsample(each))
        terms += [
            (site, frame) for site in sites for frame in site["cond_indep_stack"] if frame.name in plates
        ]
    if not terms:
        return {}
    first, last = (_gradients(terms, place, leaves) for place in (0, rows - 1))
    return {name: _Used(*both) for name, *both in zip(leaves, first, last, strict=True)}


def _gradients(
    terms: list[tuple[dict[str, Any], CondIndepStackFrame]], place: int, leaves: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return which elements of the leaves have a gradient in the terms of a place."""
    own = [value for site, frame in terms if (value := _term(site, frame, place)) is not None]
    total = torch.stack(own).sum() if own else torch.zeros(())
    if not total.requires_grad:
        return [torch.zeros_like(leaf, dtype=torch.bool) for leaf in leaves.values()]
    found = torch.autograd.grad(
        total, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return [gradient != 0 for gradient in found]


def _term(site: dict[str, Any], frame: CondIndepStackFrame, place: int) -> Tensor | None:
    """Return the term of a site in a place of a plate, if it has one there."""
    log_prob: Tensor = site["log_prob"]
    if not frame.vectorized:  # a loop over rows, which counts from 1
        return log_prob.sum() if frame.counter - 1 == place else None
    if log_prob.dim() < -frame.dim or log_prob.shape[frame.dim] != size_at(site, frame):
        return None
    return log_prob.select(frame.dim, place).sum()
