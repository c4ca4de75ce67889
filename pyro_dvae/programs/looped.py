"""Draws made one at a time, for programs that do not vectorise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import is_identically_zero
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae.errors import InputError
from pyro_dvae.programs.drawing import draw
from pyro_dvae.programs.draws import Draws, Pair, Term, same
from pyro_dvae.programs.leaves import Replay
from pyro_dvae.programs.plates import VARIES, Layout, data_frames
from pyro_dvae.sites import CORRUPTIONS, PARTICLES, is_uncounted

Site = dict[str, Any]


def draw_in_turn(pair: Pair, layout: Layout, with_leaves: bool) -> Draws:
    """Run guide and model once for each of M × K draws, and stack their densities.

    The K draws of a corruption share it, and all draws share the rows that plates subsample. A site that is
    missing in a draw contributes nothing to it.
    """
    single = Layout(1, 1, layout.max_plate_nesting)
    runs: list[Draws] = []
    for corruption in range(layout.num_corruptions):
        for particle in range(layout.num_particles):
            shared = _shared(runs, runs[corruption * layout.num_particles] if particle else None)
            guide = Replay(shared)(pair.guide)
            model = poutine.replay(pair.model, trace=_shared(runs, None))
            runs.append(replace(draw(model, guide, pair.args, pair.kwargs, single, with_leaves), pair=pair))
    return Draws(
        _joined([run.model_trace for run in runs], layout),
        _joined([run.guide_trace for run in runs], layout),
        layout,
        runs[0].subsamples,
        pair,
        tuple(leaf for run in runs for leaf in run.leaves),
        tuple(runs),
    )


def joined_terms(parts: Sequence[list[Term]], draws: Draws) -> list[Term]:
    """Return the terms of single runs as terms of all draws."""
    sites = {(site["name"], 1.0): site for site in draws.model_sites()}
    sites |= {(site["name"], -1.0): site for site in draws.counted_sites()}
    found = []
    for name, sign in dict.fromkeys((term.site["name"], term.sign) for terms in parts for term in terms):
        values = [
            next((term.value for term in terms if (term.site["name"], term.sign) == (name, sign)), None)
            for terms in parts
        ]
        found.append(Term(sites[name, sign], sign, _stacked(values, draws.layout)))
    return found


def _shared(runs: Sequence[Draws], first: Draws | None) -> Trace:
    """Return the sites that a further run shares: the rows of plates, and the corruptions of ``first``."""
    kept = Trace()
    if runs:
        for name, site in runs[0].subsamples.sites.items():
            kept.add_node(name, **site)
    if first is not None:
        for site in first.guide_trace.nodes.values():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            if not is_uncounted(site):
                break  # later noise may depend on a latent, so each draw gets its own
            kept.add_node(site["name"], **site)
    return kept


def _joined(traces: Sequence[Trace], layout: Layout) -> Trace:
    joined = Trace()
    nodes = [node for trace in traces for node in trace.nodes.items()]
    for name in dict.fromkeys(name for name, site in nodes if site["type"] == "sample"):
        sites, own = [trace.nodes.get(name) for trace in traces], layout
        first = next(site for site in sites if site is not None)
        if is_uncounted(first) and None not in sites:
            k = layout.num_particles
            rows = [sites[start : start + k] for start in range(0, len(sites), k)]
            if all(site["value"] is row[0]["value"] for row in rows for site in row):
                sites, own = [row[0] for row in rows], replace(layout, num_particles=1)
        joined.add_node(name, **_site(first, sites, own, layout))
    return joined


def _site(first: Site, sites: Sequence[Site | None], own: Layout, layout: Layout) -> Site:
    """Return a site of several runs as a site of all draws."""
    if any(site is not None and not same(site["scale"], first["scale"]) for site in sites):
        raise InputError(
            f"site {first['name']!r}: expected one scale (poutine.scale, plates) in all draws, got several"
        )

    def of(get: Callable[[Site], Tensor]) -> Tensor:
        return _stacked([None if site is None else get(site) for site in sites], own)

    frames = []
    if own.num_corruptions > 1:
        frames.append(CondIndepStackFrame(CORRUPTIONS, layout.corruption_dim, own.num_corruptions, 0))
    if own.num_particles > 1:
        frames.append(CondIndepStackFrame(PARTICLES, layout.particle_dim, own.num_particles, 0))
    site = {**first, "value": None, "cond_indep_stack": (*first["cond_indep_stack"], *frames)}
    outside = not data_frames(first) or isinstance(
        first["fn"], Unit
    )  # a factor may be in an outer plate only
    if first["is_observed"] and outside and get_proxy_mode() is None:
        value = first["unscaled_log_prob"]
        alike = all(each is not None and same(each["unscaled_log_prob"], value) for each in sites)
        site["infer"] = {**first["infer"], VARIES: not alike}
    site["unscaled_log_prob"] = of(lambda each: each["unscaled_log_prob"])
    site["log_prob"] = of(lambda each: each["log_prob"])
    site["log_prob_sum"] = site["log_prob"].sum()
    if isinstance(first["mask"], Tensor):
        site["mask"] = of(lambda each: each["mask"])
    if "score_parts" in first:
        score: Any = 0
        if isinstance(first["score_parts"].score_function, Tensor):
            score = of(lambda each: each["score_parts"].score_function)
        entropy = 0 if is_identically_zero(first["score_parts"].entropy_term) else site["log_prob"]
        site["score_parts"] = ScoreParts(site["log_prob"], score, entropy)
    return site


def _stacked(values: Sequence[Tensor | None], layout: Layout) -> Tensor:
    """Stack values [*plates] of the runs to [K, M, *plates], without dimensions of size 1 for draws."""
    known = [value for value in values if value is not None]
    shape = torch.broadcast_shapes(*[value.shape for value in known])
    wide = (1,) * (int(layout.max_plate_nesting) - len(shape)) + shape
    zero = known[0].new_zeros(())
    full = torch.stack([(zero if value is None else value).expand(shape).reshape(wide) for value in values])
    full = full.reshape(layout.num_corruptions, layout.num_particles, *wide).transpose(0, 1)
    if layout.num_corruptions == 1:
        full = full.squeeze(1)
    return full.squeeze(0) if layout.num_particles == 1 else full
