"""Figures per observation: what belongs to none of them is left out or refused."""

from __future__ import annotations

from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.plates import VARIES, data_frames, draws_of
from pyro_dvae.errors import InputError


def leave_out_zeros(draws: Draws) -> None:
    """Let sites of log-density 0, and observed ones in no plate, not decide what an observation is.

    For a single draw, whose values may be read.
    """
    sites = [*draws.model_sites(), *draws.counted_sites()]
    inside = any(data_frames(site) for site in sites)
    for site in sites:
        zero = site["is_observed"] and bool((site["unscaled_log_prob"] == 0).all())
        outside = site["is_observed"] and inside and not data_frames(site)
        if zero or outside:
            site["infer"][VARIES] = False


def require_no_rest(draws: Draws) -> None:
    """Refuse a log-density that is of no single observation.

    :raises InputError: naming the site.
    """
    for term in [*draws.model_terms(), *draws.guide_terms()]:
        if draws.is_within(term.site):
            continue
        nats = float(term.value.detach().sum()) / draws_of(term.site)
        if nats != 0:
            raise InputError(
                f"model, guide: site {term.site['name']!r} lies outside of the plate of the observations and "
                f"adds {nats:.6g} nats that are of none of them; leave it out for figures per observation "
                "(pyro.poutine.block)"
            )
