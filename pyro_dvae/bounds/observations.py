"""Figures per observation: what belongs to none of them is left out or refused."""

from __future__ import annotations

import torch

from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.plates import VARIES
from pyro_dvae.errors import InputError


def leave_out_zeros(draws: Draws) -> None:
    """Let observed sites of log-density 0 not decide what an observation is; for values that may be read."""
    for site in [*draws.model_sites(), *draws.counted_sites()]:
        if site["is_observed"] and bool((site["unscaled_log_prob"] == 0).all()):
            site["infer"][VARIES] = False


def require_no_rest(draws: Draws) -> None:
    """Refuse a log-density that is of no single observation.

    :raises InputError: naming the site.
    """
    for term in [*draws.model_terms(), *draws.guide_terms()]:
        if not draws.is_within(term.site) and not torch.equal(term.value, torch.zeros_like(term.value)):
            raise InputError(
                f"model, guide: site {term.site['name']!r} lies outside of the plate of the observations and "
                f"adds {float(term.value.sum()):.6g} nats that are of none of them; leave it out for figures "
                "per observation (pyro.poutine.block)"
            )
