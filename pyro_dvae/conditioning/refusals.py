"""Refusals of models that have no density for rows with gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae.buffers import on_trial
from pyro_dvae.conditioning.likelihoods import ObservedCells
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.structure import ProperLatents
from pyro_dvae.rows import Arguments

Program = Callable[..., Any]


@torch.no_grad()
def refuse_readers(model: Program, sample: Arguments, missing: Tensor) -> None:
    """Refuse a model with a density that depends on missing cells, which makes it unknown.

    :param model: a model of rows with gaps, called with the filled rows and their mask.
    :param sample: its arguments for a few rows.
    :param missing: which cells are missing in any row.
    :raises InputError: naming the site.
    :raises ImproperPriorError: the model cannot be run without a guide.
    """
    x, seen, *others = sample.rows
    whole = _without_density(model, Arguments((x, torch.ones_like(seen), *others), sample.kwargs))
    reason = "reads"
    try:
        blank = _without_density(model, Arguments((x, ~missing.expand_as(seen), *others), sample.kwargs))
    except Exception as error:
        blank, reason = ["..."], f"fails ({str(error).splitlines()[0] if str(error) else error!r}) on"
    for name in blank:
        if name not in whole:
            site = "it" if name == "..." else f"site {name!r}"
            raise InputError(
                f"model: {site} {reason} missing cells elsewhere than where it observes them (in a "
                "likelihood, prior or factor), so rows with gaps have no density; pass what it reads "
                "as a further argument without gaps (model(x, c)), or fill these cells; observe labels as "
                "floats, not .long(); a decoder of counts reads the row's total, unless library='latent'"
            )


def _without_density(model: Program, rows: Arguments) -> list[str]:
    """Return the names of sites whose density is NaN."""
    with on_trial(), poutine.block(), pyro.validation_enabled(False):
        trace = rows.call(poutine.trace(ProperLatents()(model)).get_trace)
        found = []
        for name, site in poutine.util.prune_subsample_sites(trace).nodes.items():
            if site["type"] == "sample":
                fn = site["fn"]
                fn = fn.base_dist if isinstance(fn, ObservedCells) else fn
                if bool(fn.log_prob(site["value"]).isnan().any()):
                    found.append(name)
        return found
