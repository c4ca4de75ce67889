"""Draws of the latents of rows, with predictions and log-likelihoods, labelled for ArviZ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.conditioning.likelihoods import ObservedCells
from pyro_dvae.evaluation.importance.arviz_export import CHAIN, DATUM, DRAW, grouped
from pyro_dvae.evaluation.importance.programs import SampledPrograms
from pyro_dvae.evaluation.importance.proposals import Pass, Proposal
from pyro_dvae.evaluation.measures.passes import Program, Site, by_row, chunks, first_chunk, measuring
from pyro_dvae.evaluation.progress import progress_of
from pyro_dvae.programs.data_plate import the_data_plate
from pyro_dvae.programs.drawing import draw
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.programs.plates import Layout, data_frames, is_deterministic
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import is_uncounted

_OF_DRAWS = ("posterior", "posterior_predictive", "log_likelihood")
Groups = dict[str, dict[str, Tensor]]


def to_arviz(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_draws: int = 100,
    num_samples: int = 100,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> Any:
    """Return draws of the latents of each row, with predictions and log-likelihoods, in ArviZ's container.

    - ``posterior``: draws of the guide. Dimensions are ``chain`` (of size 1) and ``draw``, then ``datum`` for
      latents of single rows, then those of a value.
    - ``posterior_predictive``: a new observation at each draw.
    - ``observed_data``: the rows; NaN in gaps.
    - ``log_likelihood``: log p(x_n | w_s) (nats) if the rows share latents w, such as the weights of a
      Bayesian decoder; the row's own latents are integrated out by importance sampling. If the rows share
      none: log p(x_n | z_ns), and each factor of the rows (``pyro.factor``, as for censored values) under its
      own name.

    :param model: Pyro model of a batch, whose observed sites lie in a plate of the rows.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`). The draws take S times their
        memory.
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_draws: S.
    :param num_samples: importance samples of a row's own latents at each draw of shared ones.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows at a time; by default 2,000.
    :param progress: whether to show progress, or a function of the numbers of finished draws and all draws.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
    :raises InputError: an argument is invalid, or no plate has the rows of a batch.
    """
    checks.pair(model, guide)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    num_draws = checks.count("num_draws", num_draws)
    num_samples = checks.count("num_samples", num_samples)
    checks.flag("clean", clean)
    checks.progress(progress)
    draws: list[Groups] = []
    with (
        measuring(model, guide, first_chunk(given, batch_size), clean, seed, given),
        progress_of("draws", progress) as shown,
    ):
        plate = _plate(model, guide, first_chunk(given, batch_size))
        start, one = int(torch.randint(2**62, ())), None
        for number in range(num_draws):
            shared, found = Trace(), []
            for rows in chunks(given, batch_size):
                found.append(_run(model, guide, rows, plate, shared))
            draw = {group: _joined([part[group] for part in found]) for group in found[0]}
            own = [site for site in shared.nodes.values() if not site["infer"].get("is_auxiliary")]
            draw["shared"] = {site["name"]: site["value"].cpu() for site in own}
            if own:
                pair = _at(model, shared), _at(guide, shared)
                one = one or _pass(*pair, given, num_samples)
                # The same noise for all draws, so that they differ only in the shared latents.
                draw["log_likelihood"] = {
                    "+".join(draw["observed_data"]): _evidence(*pair, given, one, start)
                }
            draws.append(draw)
            shown(number + 1, num_draws)
    groups = {group: _stacked(draws, group, (CHAIN, DRAW, DATUM)) for group in _OF_DRAWS}
    groups["posterior"] |= _stacked(draws, "shared", (CHAIN, DRAW))
    groups["observed_data"] = {
        name: _labelled(name, value, (DATUM,)) for name, value in draws[0]["observed_data"].items()
    }
    attributes = {
        "num_draws": num_draws,
        "torch_version": torch.__version__,
        "pyro_version": pyro.__version__,
    }
    return grouped(groups, dict.fromkeys(groups, attributes), np.arange(len(given)))


def _plate(model: Program, guide: Program, rows: Arguments) -> str:
    """Return the name of the plate of the rows, which all observed sites share."""
    draws = draw(model, guide, rows.rows, dict(rows.kwargs), Layout(1, 1, math.inf))
    return str(the_data_plate(draws.model_sites(), len(rows)).name)


def _observed(nodes: dict[str, Site]) -> list[Site]:
    """Return the observed sites, without factors and deterministic sites."""
    sites = [site for site in nodes.values() if site["type"] == "sample" and site["is_observed"]]
    return [site for site in sites if site["value"].numel() and not is_deterministic(site)]


def _run(model: Program, guide: Program, rows: Arguments, plate: str, shared: Trace) -> Groups:
    """Run guide and model once on some rows, at the shared draws ``shared``, which the first run fills.

    Shared are the model's latents outside the plate, and what the guide computes them from (an AutoGuide).
    """

    def density(site: Site) -> Tensor:
        value = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
        return by_row(value, site, plate).reshape(len(rows), -1).sum(1)

    latents = rows.call(poutine.trace(poutine.replay(guide, trace=shared)).get_trace)
    for name, site in latents.nodes.items():
        auxiliary = site["type"] == "sample" and site["infer"].get("is_auxiliary") and not is_uncounted(site)
        if auxiliary and not data_frames(site) and name not in shared.nodes:
            shared.add_node(name, **site)
    found: Groups = {"posterior": {}, "posterior_predictive": {}, "log_likelihood": {}, "observed_data": {}}
    trace = rows.call(poutine.trace(poutine.replay(model, trace=latents)).get_trace)
    for site in trace.nodes.values():
        if site["type"] != "sample" or site["is_observed"] or site_is_subsample(site):
            continue
        if any(frame.name == plate for frame in site["cond_indep_stack"]):
            found["posterior"][site["name"]] = by_row(site["value"], site, plate)
        elif site["name"] not in shared.nodes:
            shared.add_node(site["name"], **latents.nodes[site["name"]])
    for site in trace.nodes.values():
        factor = site["type"] == "sample" and isinstance(site["fn"], Unit)
        if factor and any(frame.name == plate for frame in site["cond_indep_stack"]):
            found["log_likelihood"][site["name"]] = density(site)
    for site in _observed(trace.nodes):
        name, fn, value = site["name"], site["fn"], site["value"]
        found["log_likelihood"][name] = density(site)
        found["posterior_predictive"][name] = by_row(fn.sample(), site, plate)
        seen = fn.seen if isinstance(fn, ObservedCells) else torch.ones_like(value, dtype=torch.bool)
        found["observed_data"][name] = by_row(torch.where(seen, value, torch.nan), site, plate)
    return found


def _pass(model: Program, guide: Program, given: Data, num_samples: int) -> Pass:
    found = SampledPrograms(model, guide, given).inspect(math.inf)
    return Pass(Proposal(), num_samples, 0, found.nesting, found.noisy)


def _evidence(model: Program, guide: Program, given: Data, one: Pass, seed: int) -> Tensor:
    """Return log p(x_n) of each row, [N] (nats), by importance sampling."""
    parts = []
    for rows in chunks(given, None, one.num_draws):
        with forked(seed):
            log_weight = one.log_weights(model, guide, rows.rows, dict(rows.kwargs)).double()
        parts.append(log_weight.logsumexp(0).cpu() - math.log(one.num_draws))
    return torch.cat(parts)


def _at(program: Program, shared: Trace) -> Program:
    """Return a program with shared latents fixed and hidden, so that each row has its own density."""
    return poutine.block(poutine.replay(program, trace=shared), hide=list(shared.nodes))


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def _stacked(draws: list[Groups], group: str, dimensions: tuple[str, ...]) -> dict[str, Any]:
    names = draws[0][group]
    return {
        name: _labelled(name, torch.stack([draw[group][name] for draw in draws])[None], dimensions)
        for name in names
    }


def _labelled(name: str, value: Tensor, first: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return a variable with the names of its dimensions, named as in ArviZ."""
    others = (f"{name}_dim_{n}" for n in range(value.dim() - len(first)))
    return (*first, *others), value.detach().numpy()
