"""Further runs of a guide on existing draws, under other corruptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae.errors import InputError
from pyro_dvae.programs.drawing import LOOP, refuse_undeclared
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.leaves import NOT_INVERTED, Replay, refuse_rejection
from pyro_dvae.programs.plates import DrawPlate, Layout
from pyro_dvae.programs.vectorised import naming_draws
from pyro_dvae.sites import REDRAWS, clean_input, is_point, is_uncounted


@dataclass(frozen=True)
class CrossDensity:
    """Densities of the latents under the guide at several corruptions.

    :param values: log q(z_km|x̃_j), shape [J, K, M, *datum] (nats).
    :param score: log p(x̃_j|x) of the non-reparameterised auxiliary sites, [J, K or 1, M or 1, *datum]; None
        if there are none that require a gradient.
    """

    values: Tensor
    score: Tensor | None


def redrawn_density(draws: Draws, count: int) -> CrossDensity:
    """Evaluate the latents under ``count`` new corruptions, in one pass on J inputs per observation."""
    if draws.runs:
        return _density_in_turn(draws, count, own=False)
    return _density(draws, count, {})


def mixture_density(draws: Draws) -> CrossDensity:
    """Evaluate the latents under each of the run's own M corruptions: values [M', K, M, *datum]."""
    count = draws.layout.num_corruptions
    if draws.runs:
        cross = _density_in_turn(draws, count, own=True)
    else:
        cross = _density(draws, count, given_corruptions(draws, draws.layout))
    _refuse_disagreement(draws, cross)
    return cross


def _refuse_disagreement(draws: Draws, cross: CrossDensity) -> None:
    """Refuse a guide whose second run gives another density of the same draws."""
    if get_proxy_mode() is not None:
        return
    values = cross.values.detach()
    own = -draws.log_weight(draws.guide_terms()).values.detach()
    own = own.expand(
        torch.broadcast_shapes(own.shape, values.shape[1:])
    )  # without latents there is a single value
    count = own.shape[1]
    values = values.expand(max(count, len(values)), *values.shape[1:])
    again = torch.stack([values[m].expand_as(own)[:, m] for m in range(count)], 1)
    wrong = (again - own).abs() > 1e-3 * (1 + own.abs())
    if bool((wrong & torch.isfinite(own)).any()):
        raise InputError(
            "guide: a second run on the same corruptions and latents gives another density, so the guide "
            "draws outside its sample sites (dropout?) and a mixture over corruptions is not its density; "
            "use TraceDenoising_ELBO or combine='pooled', or put its modules into evaluation mode"
        )


def _has_dim(value: Tensor, dim: int, size: int) -> bool:
    return value.dim() >= -dim and value.shape[dim] == size


def given_corruptions(draws: Draws, layout: Layout) -> dict[str, dict[str, Any]]:
    """Return the sites of the run's M corruptions on a further plate to the left of ``layout``."""
    given = {}
    for site in draws.auxiliary_sites():
        if site["is_observed"]:
            continue  # conditioned: the same in every run
        value, event_dim = site["value"], site["fn"].event_dim
        particle_dim = draws.layout.particle_dim
        if particle_dim and _has_dim(value, particle_dim - event_dim, draws.layout.num_particles):
            raise InputError(
                f"site {site['name']!r} depends on the latents, so the mixture over corruptions is not a "
                "proposal; use combine='pooled', or proposal='corrupted'"
            )
        if draws.layout.num_corruptions > 1:  # a single corruption has no dimension
            draw_dims = (layout.num_corruptions > 1) + (layout.num_particles > 1)
            value = value.reshape(draws.layout.num_corruptions, *[1] * draw_dims, *value.shape[1:])
        given[site["name"]] = {**site, "value": value}
    return given


def density_of_others(
    draws: Draws, others: Draws, auxiliary: dict[str, dict[str, Any]] | None = None, count: int = 1
) -> Tensor:
    """Evaluate the latents of ``others``, drawn by another program, under the guide of ``draws``.

    :param auxiliary: corruption sites on a further plate of ``count``; if None, new ones are drawn, one for
        each corruption in the layout of ``others``.
    :returns: log q(z|x̃), shape [count, K, M, *datum] (nats).
    """
    if points := [site["name"] for site in draws.latent_sites() if is_point(site["fn"])]:
        raise InputError(
            f"defensive: draws from the prior have no density under a guide whose latent {points[0]!r} is a "
            "function of other draws (as in an AutoGuide); use defensive=0"
        )
    given = auxiliary or {}
    moved = replace(others, pair=draws.pair)
    return _density(moved, count, given, redrawn=bool(given)).values


def on_clean_input(draws: Draws) -> Draws:
    """Run the guide once more on the same latents and noise, with corruption turned off."""
    others = {site["name"]: site for site in draws.auxiliary_sites() if site["fn"].clean is None}
    return _traced(draws, clean_input(draws.layout.wrap(Replay(_replayed(draws, others))(draws.pair.guide))))


def _density(
    draws: Draws, count: int, auxiliary: dict[str, dict[str, Any]], redrawn: bool = True
) -> CrossDensity:
    layout = draws.layout
    guide = layout.wrap(Replay(_replayed(draws, auxiliary))(draws.pair.guide), redrawn)
    if count > 1:
        guide = DrawPlate(REDRAWS, count, -int(layout.nesting) - 1, latents_only=False)(guide)
    with naming_draws(draws.pair, replace(layout, num_corruptions=layout.num_corruptions * count)):
        again = _traced(draws, guide)
    return _cross(draws, again, 1 if count > 1 else 0, fresh=not auxiliary)


def _replayed(draws: Draws, auxiliary: dict[str, dict[str, Any]]) -> Trace:
    replayed = Trace()
    for site in draws.counted_sites():
        if not site["is_observed"] and not is_point(site["fn"]):
            refuse_rejection(site, "a further run of the guide")
            replayed.add_node(site["name"], **site)
    for name, site in auxiliary.items():
        replayed.add_node(name, **site)
    for name, site in draws.subsamples.sites.items():
        replayed.add_node(name, **site)
    return replayed


def _traced(draws: Draws, guide: Callable[..., Any]) -> Draws:
    trace = poutine.trace(guide).get_trace(*draws.pair.args, **draws.pair.kwargs)
    trace = poutine.util.prune_subsample_sites(trace)
    try:
        trace.compute_log_prob(lambda _, site: not is_uncounted(site))
    except NOT_INVERTED as error:
        raise InputError(
            "guide: it has a flow without an inverse, whose density is known at its own draws alone, and a "
            "mixture over corruptions, or a share of draws from the prior, needs it at others; use "
            "TraceDenoising_ELBO, combine='pooled', proposal='clean', or a flow with an inverse"
        ) from error
    for site in trace.nodes.values():
        if site["type"] == "sample" and is_uncounted(site):
            site["score_parts"] = site["fn"].score_parts(site["value"])
    return Draws(draws.model_trace, trace, draws.layout, draws.subsamples, draws.pair)


def _cross(draws: Draws, again: Draws, lead: int, fresh: bool) -> CrossDensity:
    layout, frames = draws.layout, draws.datum_frames()
    total = torch.zeros((1,) * (lead + 2 + max((-frame.dim for frame in frames), default=0)))
    score: Any = None
    for site in again.counted_sites():
        own = draws.guide_trace.nodes.get(site["name"])
        if own is None or not draws.is_within(own):
            continue
        _refuse_moved(own, site)
        shape = site["unscaled_log_prob"].shape
        if lead and any(size > 1 for size in shape[: max(0, len(shape) - int(layout.nesting) - 1)]):
            raise InputError(
                f"guide: site {site['name']!r} has a log-density of shape {tuple(shape)}, with undeclared "
                "dimensions on the left, where further corruptions need theirs; declare them (.to_event, "
                f"pyro.plate), or use {LOOP}"
            )
        value = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
        total = total.to(value.device) + layout.per_datum(value, frames, lead)
    if fresh:
        for site in again.auxiliary_sites():
            part = site["score_parts"].score_function
            if isinstance(part, Tensor):
                part = layout.per_datum(part, frames, lead)
                score = part if score is None else score + part
    if not lead:
        total = total.unsqueeze(0)
        score = None if score is None else score.unsqueeze(0)
    return CrossDensity(total, score)


def _refuse_moved(own: dict[str, Any], again: dict[str, Any]) -> None:
    """Refuse a point that changes with the corruption, because it has no density under another one."""
    if not is_point(again["fn"]) or get_proxy_mode() is not None:
        return
    value, other = torch.broadcast_tensors(own["value"], again["value"])
    if not torch.equal(value, other):
        raise InputError(
            f"guide: its latent {own['name']!r} is a point that depends on the corruption, so it has no "
            "density under other corruptions; use TraceDenoising_ELBO, or give the latent a density"
        )


def _density_in_turn(draws: Draws, count: int, own: bool) -> CrossDensity:
    """Return :func:`_density` of draws made in a loop, by one run of the guide per component and draw."""
    runs, layout = [replace(run, frames=draws.datum_frames()) for run in draws.runs], draws.layout
    refuse_undeclared(runs[0], "the density of a mixture")
    values, scores = [], []
    for component in range(count):
        shared: dict[str, dict[str, Any]] = {}
        if own:
            first = runs[component * layout.num_particles]
            shared = {site["name"]: site for site in first.auxiliary_sites()}
        found = []
        for run in runs:
            again = _traced(run, Replay(_replayed(run, shared))(run.pair.guide))
            found.append(_cross(run, again, 0, fresh=not shared))
            shared = shared or {site["name"]: site for site in again.auxiliary_sites()}
        flat = torch.stack([each.values.reshape(each.values.shape[3:]) for each in found])
        grid = flat.reshape(layout.num_corruptions, layout.num_particles, *flat.shape[1:]).transpose(0, 1)
        values.append(grid)
        scores.append(found[0].score)
    score = None if scores[0] is None else torch.cat([each for each in scores if each is not None])
    return CrossDensity(torch.stack(values), score)
