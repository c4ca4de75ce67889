"""The observation that an importance weight belongs to: one row, or all rows that share a latent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.poutine.util import site_is_subsample

from pyro_dvae import checks
from pyro_dvae.errors import InputError, warn
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.plates import (
    VARIES,
    data_frames,
    draws_of,
    is_deterministic,
    kept_by_masks,
    varies_over_draws,
)
from pyro_dvae.sites import is_point, layers


def observed_name(nodes: Mapping[str, dict[str, Any]], chosen: str | None) -> str:
    """Return the name of the observed site of a run: ``chosen``, or the only one, or ``x``.

    :param nodes: the sites of a model, also without its observations (``uncondition``).
    """
    found = observed_names(nodes)
    if not found:
        raise InputError("model: expected an observed sample site (obs=x), got none")
    if chosen is not None:
        return checks.known("data_site", chosen, found)
    if len(found) > 1 and "x" not in found:
        raise InputError(f"data_site: the model observes {', '.join(map(repr, found))}; name one of them")
    return found[0] if len(found) == 1 else "x"


def observed_names(nodes: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the names of the observed sites of a run; of ``uncondition``, those of the model itself."""
    drawn = _drawn(nodes)
    own = [name for name, node in drawn.items() if node["infer"].get("was_observed")]
    return own or [name for name, node in drawn.items() if node["is_observed"]]


def latent_names(nodes: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the names of the latents of a run, also of ``uncondition``."""
    return [
        name
        for name, node in _drawn(nodes).items()
        if not (node["is_observed"] or node["infer"].get("was_observed"))
    ]


def _drawn(nodes: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sample sites that have a value of their own."""
    return {name: node for name, node in nodes.items() if node["type"] == "sample" and _has_value(node)}


def _has_value(node: dict[str, Any]) -> bool:
    factor = any(isinstance(each, Unit) for each in layers(node["fn"]))
    return not (factor or is_deterministic(node) or site_is_subsample(node))


def leave_out_zeros(draws: Draws) -> None:
    """Ignore sites of log-density 0, and observed sites without a plate, when observations are determined.

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
    """Refuse a log-density that belongs to no single observation.

    :raises InputError: such a site exists; the message names it.
    """
    for term in [*draws.model_terms(), *draws.guide_terms()]:
        if draws.is_within(term.site):
            continue
        nats = float(term.value.detach().sum()) / draws_of(term.site)
        if nats != 0:
            raise InputError(
                f"model, guide: site {term.site['name']!r} lies outside the plate of the observations, and "
                f"its {nats:.6g} nats belong to no observation; hide it (pyro.poutine.block) to get values "
                "per observation"
            )


def refuse_observed(guide: Iterable[dict[str, Any]]) -> None:
    """Refuse sites of a guide that observe a value or add a factor: they are no density of its latents.

    A bound counts them, as in Pyro, because they may be part of an objective (a loss of a classifier).
    """
    for site in guide:
        if site["is_observed"] and not is_deterministic(site) and not is_point(site["fn"]):
            name = site["name"]
            raise InputError(
                f"guide: site {name!r} is observed (obs=, pyro.factor), so it is no part of the density of "
                f"the latents; hide it, pyro.poutine.block(guide, hide=[{name!r}]), which keeps its value; "
                "if it belongs to that density, give it to a latent instead, dist.Delta(value, log_density)"
            )


def unequal_masks(draws: Draws) -> list[str]:
    """Return the latents that have other masks in the guide than in the model.

    Where one program alone counts a latent, the mean of its weights is not p(x), but another number or
    infinite. A prior that is masked as a whole (``mask=False``) is improper, and is not among them.
    """
    found = []
    for site in draws.latent_sites():
        own = draws.model_trace.nodes[site["name"]]
        kept = torch.broadcast_tensors(kept_by_masks(own), kept_by_masks(site))
        if own["mask"] is not False and not torch.equal(*kept):
            found.append(site["name"])
    return found


_SIMPLE = "TraceDenoising_ELBO or TraceMeanFieldDenoising_ELBO"


def check_weights(draws: Draws, warned: set[str]) -> None:
    """Refuse importance weights that do not match the model; warn if one weight covers all observations.

    With a latent that all observations share (a weight of a network), there is one importance weight of the
    whole data set. A mini-batch gives an unbiased estimate of its logarithm. The log of a mean of several
    exponentiated estimates is convex in them, so its expectation lies above the bound, and for noisy
    mini-batches above the evidence.

    :param warned: warnings given so far; new ones are added.
    :raises InputError: the plate that a weight covers is subsampled, the same observations have plates of
        several names, or a sequential plate surrounds everything.
    """
    _refuse_sequential(draws)
    if reason := split_plates(draws):
        raise InputError(f"{reason}, so one importance weight would cover all of them; use one name")
    if name := draws.subsamples.inside(draws.datum_frames()):
        outside = [
            site["name"]
            for site in [*draws.counted_sites(), *draws.model_sites()]
            if name not in {frame.name for frame in site["cond_indep_stack"]}
        ]
        raise InputError(
            f"model: plate {name!r} is subsampled but site {outside[0]!r} lies outside it: one importance "
            "weight covers the whole plate, and a mini-batch cannot estimate its logarithm; use "
            f"{_SIMPLE}, or give the whole plate"
        )
    if reason := shared(draws):
        if reason not in warned:
            warn(f"{reason}, so one importance weight covers all of them")
        warned.add(reason)


def shared(draws: Draws) -> str | None:
    """Describe a site outside the data plate if no plate surrounds all sites, or return None."""
    if draws.datum_frames():
        return None
    sites = sorted(_varying(draws), key=lambda site: bool(site["is_observed"]))  # latents first
    observed = [site for site in sites if site["is_observed"] and data_frames(site)]
    bare = [site for site in sites if observed and not data_frames(site)]
    if not bare and (reason := split_plates(draws)):
        return reason
    for site in bare or sites:
        inside = {frame.name for frame in data_frames(site)}
        for frame in data_frames(observed[0]) if observed else ():
            if frame.name not in inside:
                where = "guide" if site["name"] in draws.guide_trace.nodes else "model"
                tie = "with" if inside else "and is shared by"
                return (
                    f"{where}: site {site['name']!r} lies outside of plate {frame.name!r} {tie} "
                    f"its {observed[0]['unscaled_log_prob'].shape[frame.dim]} observations"
                )
    return None


def split_plates(draws: Draws) -> str | None:
    """Describe two sites in plates of different names on one dimension, or return None."""
    frames: dict[int, tuple[str, str, int]] = {}
    for site in _varying(draws):
        for frame in data_frames(site):
            name, other, size = frames.setdefault(frame.dim, (frame.name, site["name"], frame.size))
            if name != frame.name and size == frame.size and not draws.datum_frames():
                return (
                    f"model, guide: site {site['name']!r} lies in plate {frame.name!r} and site {other!r} in "
                    f"plate {name!r} on the same dimension, which Pyro treats as different observations"
                )
    return None


def _varying(draws: Draws) -> list[dict[str, Any]]:
    sites = [*draws.model_sites(), *draws.counted_sites()]
    return [site for site in sites if varies_over_draws(site) and not is_deterministic(site)]


def _refuse_sequential(draws: Draws) -> None:
    sites = _varying(draws)
    stacks = [{(f.name, f.counter) for f in site["cond_indep_stack"] if not f.vectorized} for site in sites]
    for name in {name for stack in stacks for name, _ in stack}:
        counters = [{counter for other, counter in stack if other == name} for stack in stacks]
        if all(counters) and len(set.union(*counters)) > 1:
            raise InputError(
                f"model: plate {name!r} is sequential and contains all sites, so one importance weight would "
                f"cover the whole plate; use a vectorised plate (with pyro.plate(...)), or {_SIMPLE}"
            )
