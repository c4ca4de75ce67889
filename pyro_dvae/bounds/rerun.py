"""Further runs of a guide on draws that are already made: other corruptions, or the same draws as leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_dvae.bounds.draws import Draws, Layout
from pyro_dvae.bounds.plates import REDRAWS, DrawPlate
from pyro_dvae.errors import InputError


@dataclass(frozen=True)
class CrossDensity:
    """Densities of the latents under the guide at several corruptions.

    :param values: log q(z_km|x̃_j), shape [J, K, M, *datum] (nats).
    :param score: log p(x̃_j|x) of the non-reparameterised auxiliary sites, [J, K or 1, M or 1, *datum];
        None where there are none that want a gradient.
    """

    values: Tensor
    score: Tensor | None


def redrawn_density(draws: Draws, count: int) -> CrossDensity:
    """Evaluate the latents under ``count`` fresh corruptions, in one pass on J inputs per datum."""
    return _density(draws, count, {})


def mixture_density(draws: Draws) -> CrossDensity:
    """Evaluate the latents under each of the run's own M corruptions: values [M', K, M, *datum]."""
    return _density(draws, draws.layout.num_corruptions, given_corruptions(draws, draws.layout))


def _has_dim(value: Tensor, dim: int, size: int) -> bool:
    return value.dim() >= -dim and value.shape[dim] == size


def given_corruptions(draws: Draws, layout: Layout) -> dict[str, dict[str, Any]]:
    """Return the sites of the run's M corruptions, put on a further plate left of the draws of ``layout``."""
    given = {}
    for site in draws.auxiliary_sites():
        value, event_dim = site["value"], site["fn"].event_dim
        particle_dim = draws.layout.particle_dim
        if particle_dim and _has_dim(value, particle_dim - event_dim, draws.layout.num_particles):
            raise InputError(
                f"site {site['name']!r} depends on the latents, so the mixture over corruptions is not a "
                "proposal; use combine='pooled', or proposal='corrupted'"
            )
        draw_dims = (layout.num_corruptions > 1) + (layout.num_particles > 1)
        moved = value.reshape(draws.layout.num_corruptions, *[1] * draw_dims, *value.shape[1:])
        given[site["name"]] = {**site, "value": moved}
    return given


def density_of_others(
    draws: Draws, others: Draws, auxiliary: dict[str, dict[str, Any]] | None = None, count: int = 1
) -> Tensor:
    """Evaluate the latents of ``others``, drawn by another program, under the guide of ``draws``.

    :param auxiliary: corruption sites on the dimension of a further plate of ``count``; drawn anew where
        None, one for each corruption of ``others``'s layout.
    :returns: log q(z|x̃), shape [count, K, M, *datum] (nats).
    """
    given = auxiliary or {}
    moved = Draws(others.model_trace, others.guide_trace, others.layout, others.subsamples, draws.pair)
    return _density(moved, count, given, redrawn=bool(given)).values


def _density(
    draws: Draws, count: int, auxiliary: dict[str, dict[str, Any]], redrawn: bool = True
) -> CrossDensity:
    layout = draws.layout
    replayed = Trace()
    for site in draws.latent_sites():
        replayed.add_node(site["name"], **site)
    for name, site in auxiliary.items():
        replayed.add_node(name, **site)
    for name, site in draws.subsamples.sites.items():
        replayed.add_node(name, **site)
    guide = layout.wrap(poutine.replay(draws.pair.guide, trace=replayed), redrawn)
    if count > 1:
        guide = DrawPlate(REDRAWS, count, -int(layout.nesting) - 1, latents_only=False)(guide)
    trace = poutine.trace(guide).get_trace(*draws.pair.args, **draws.pair.kwargs)
    trace = poutine.util.prune_subsample_sites(trace)
    trace.compute_score_parts()
    again = Draws(draws.model_trace, trace, layout, draws.subsamples, draws.pair)
    frames = draws.datum_frames()
    total: Any = 0.0
    score: Any = None
    lead = 1 if count > 1 else 0
    for site in again.latent_sites():
        value = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
        total = total + layout.per_datum(value, frames, lead)
    if not auxiliary:
        for site in again.auxiliary_sites():
            part = site["score_parts"].score_function
            if isinstance(part, Tensor):
                part = layout.per_datum(part, frames, lead)
                score = part if score is None else score + part
    if not lead:
        total = total.unsqueeze(0)
        score = None if score is None else score.unsqueeze(0)
    return CrossDensity(total, score)


def leaf_run(draws: Draws) -> tuple[Draws, dict[str, Tensor]]:
    """Run guide and model again on the same draws as leaves of the graph: partial derivatives in z alone.

    Returns the new traces, and the leaf of each reparameterised latent, by its site.
    """
    leaves = {
        site["name"]: site["value"].detach().requires_grad_()
        for site in draws.latent_sites()
        if site["fn"].has_rsample
    }
    fixed = Trace()
    for site in [*draws.latent_sites(), *draws.auxiliary_sites()]:
        value = leaves.get(site["name"], site["value"].detach())
        fixed.add_node(site["name"], **{**site, "value": value})
    for name, site in draws.subsamples.sites.items():
        fixed.add_node(name, **site)
    traces = []
    for program in (draws.pair.model, draws.pair.guide):
        wrapped = draws.layout.wrap(poutine.replay(program, trace=fixed))
        trace = poutine.util.prune_subsample_sites(
            poutine.trace(wrapped).get_trace(*draws.pair.args, **draws.pair.kwargs)
        )
        trace.compute_log_prob()
        traces.append(trace)
    return Draws(traces[0], traces[1], draws.layout, draws.subsamples, draws.pair), leaves
