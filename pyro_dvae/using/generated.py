"""Which observed sites a model generates: those that observe its first data argument."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor

from pyro_dvae.evaluation.measures.passes import Program
from pyro_dvae.programs.observations import observed_names
from pyro_dvae.programs.vectorised import Evaluation
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments


def observes_first(model: Program, row: Arguments) -> dict[str, bool]:
    """Return for each observed site whether its value follows from the first data argument.

    Other sites observe further arguments (labels) or constants. A model that takes only the values of ``row``
    is taken to observe them. Random streams stay as they are.
    """
    own = _observed(model, row)
    with suppress(Exception):
        other = _observed(model, row.of((row.x == 0).to(row.x.dtype)))  # every element differs
        return {name: name not in other or not torch.equal(own[name], other[name]) for name in own}
    return dict.fromkeys(own, True)


@torch.no_grad()
def _observed(model: Program, row: Arguments) -> dict[str, Tensor]:
    with forked(0), poutine.block(), pyro.validation_enabled(False), Evaluation():
        nodes = row.call(poutine.trace(model).get_trace).nodes
    return {name: nodes[name]["value"] for name in observed_names(nodes)}


class _Generating(UnconditionMessenger):
    """Draws observed sites, except ``labels``."""

    def __init__(self, labels: set[str]) -> None:
        super().__init__()
        self.labels = labels

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.labels:
            super()._pyro_sample(msg)


def generating(model: Program, row: Arguments, data_site: str | None) -> Callable[..., Any]:
    """Return the model with draws in place of its observations of the first data argument.

    ``data_site`` is drawn, too. Sites that observe labels keep them. If no site observes the first argument
    (a regression on it), all are drawn.
    """
    found = observes_first(model, row)
    labels = {name for name, own in found.items() if not own and name != data_site}
    program: Callable[..., Any] = _Generating(labels if any(found.values()) else set())(model)
    return program
