"""Bidirectional Monte Carlo: bounds of log p(x) from both sides, on data simulated from the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.chunks import (
    Counter,
    Weights,
    forward_weights,
    reverse_weights,
    rows_at_once,
    stream,
)
from pyro_dvae.evaluation.annealing.density import AnnealedPrograms
from pyro_dvae.evaluation.annealing.kernels import adapted_kernels, pilot_transitions
from pyro_dvae.evaluation.annealing.likelihood import start_program
from pyro_dvae.evaluation.annealing.records import AnnealedLikelihood, BidirectionalReport
from pyro_dvae.evaluation.annealing.settings import DEFAULT_MEMORY, AnnealingSettings
from pyro_dvae.evaluation.annealing.starts import programs_of
from pyro_dvae.evaluation.annealing.structure import PROBED, Program, ProperLatents, Structure, inspect
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.evaluation.progress import progress_of
from pyro_dvae.programs.observations import observed_name, observed_names
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import clean_input


def example_data(model: Program, like: Arguments, data_site: str | None) -> Tensor:
    """Draw data in the shape of ``like`` from a model that has not been inspected yet.

    :raises InputError: the model does not observe ``data_site``, or also observes other sites.
    """
    with poutine.block(), clean_input():
        trace = like.call(poutine.trace(poutine.uncondition(model)).get_trace)
    chosen = observed_name(trace.nodes, data_site)
    other = next((name for name in observed_names(trace.nodes) if name != chosen), None)
    if other is not None:
        raise InputError(f"model: it observes {other!r} besides {chosen!r}, and only one can be simulated")
    return _shaped(trace.nodes[chosen]["value"], like.x, chosen)


def simulated(
    programs: AnnealedPrograms, data_site: str | None
) -> tuple[AnnealedPrograms, dict[str, Tensor]]:
    """Draw z ~ p(z), x ~ p(x|z): z is then an exact sample of the posterior of x (Grosse et al. 2015).

    :param programs: programs on data of the right shape; the values do not matter.
    :returns: the programs on the simulated data, and the latents, each [1, *plates, *event].
    """
    tracer = poutine.trace()
    programs.run(poutine.uncondition(programs.model), tracer)
    sites = tracer.trace.nodes
    chosen = observed_name(sites, data_site)
    x = _shaped(sites[chosen]["value"], programs.x, chosen)
    latents = {name: _with_plates(sites[name], programs.structure) for name in programs.structure.latents}
    return replace(programs, given=programs.given.of(x)), latents


def _shaped(value: Tensor, like: Tensor, data_site: str) -> Tensor:
    """Return the site's value in the shape of the data, which the model may have reshaped."""
    if 2 in (value.dim(), like.dim()) and value.numel() == like.numel() and len(value) == len(like):
        value = value.reshape(like.shape)
    if value.shape != like.shape:
        raise InputError(
            f"data: expected the shape of the site {data_site!r}, {tuple(value.shape)}, got "
            f"{tuple(like.shape)}"
        )
    return value.detach()


def _with_plates(site: dict, structure: Structure) -> Tensor:
    """Return a site's value [1, *plates, *event]: one dimension for the chains, then one for every plate."""
    value: Tensor = site["value"].detach()
    batch = value.dim() - site["fn"].event_dim
    return value.reshape((1,) * (structure.nesting + 1 - batch) + value.shape)


# Simulated rows on which the structure of the model is found.
_EXAMPLES = 100


def bidirectional(
    model: Program,
    guide: Program | None,
    data: Any,
    *args: Any,
    num_data: int | None = None,
    data_site: str | None = None,
    num_steps: int = 500,
    num_chains: int = 16,
    start: str = "prior",
    leapfrog_steps: int = 10,
    schedule: str = "sigmoid",
    target_acceptance: float = 0.65,
    seed: int | None = None,
    max_plate_nesting: int | float = math.inf,
    memory: int = DEFAULT_MEMORY,
    progress: bool | Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> BidirectionalReport:
    """Bound log p(x) of data simulated from the model from both sides, to measure the error of annealing.

    Bidirectional Monte Carlo (Grosse, Ghahramani and Adams 2015, "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo"). An observation x simulated with its latents comes with one exact sample of
    the posterior p(z|x), namely those latents. In expectation, chains annealed forwards give a lower bound of
    log p(x), and chains annealed backwards from the exact sample, with the same kernels, an upper bound. The
    gap shows the error of :func:`annealed_log_likelihood` with the same options, if data of the model
    resemble the data of interest (Wu et al. 2017).

    :param model: Pyro model of a batch, as for :func:`annealed_log_likelihood`, with a single observed site.
    :param guide: Pyro guide, for ``start="guide"``; otherwise it may be None.
    :param data: rows [N, ...] of which only shape, dtype and device are used.
    :param args: further data for model and guide, N rows each, which are used as they are.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_data: number of rows to simulate; by default N. If there are more, further data are repeated.
    :param data_site: name of the observed site, whose draws are the data; by default the only one, or ``x``.
    :returns: lower and upper bound of each observation, their gap, and standard errors over the data (nats).
    :raises InputError: as :func:`annealed_log_likelihood`, and if the model observes other sites than
        ``data_site``, or draws data of another shape than ``data``.

    The other parameters are those of :func:`annealed_log_likelihood`.
    """
    settings = AnnealingSettings.checked(
        num_steps, num_chains, start, leapfrog_steps, schedule, target_acceptance, seed
    )
    checks.program("model", model)
    checks.optional(checks.program, "guide", guide)
    checks.progress(progress)
    checks.nesting("max_plate_nesting", max_plate_nesting)
    memory = checks.count("memory", memory)
    first = start_program(guide, settings)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    size = len(given) if num_data is None else checks.count("num_data", num_data)

    def like(start: int, count: int) -> Arguments:
        rows = given[torch.arange(start, min(start + count, size)) % len(given)]
        return rows.of(torch.zeros_like(rows.x))

    simulator = poutine.uncondition(ProperLatents()(model))
    with evaluation_mode(simulator, first, like(0, PROBED)), progress_of("annealing", progress) as shown:
        with stream(settings.seed, "example"):
            few = like(0, _EXAMPLES)
            few = few.of(example_data(model, few, data_site))
            examples = Data(Data.of_tensors(*few.rows).sources, kwargs)
        structure = inspect(model, first, examples, max_plate_nesting)
        with stream(settings.seed, "memory"), calling("model, guide, data"):
            rows = rows_at_once(model, first, examples, structure, num_chains, memory)
        starts = range(0, size, rows)
        count = Counter(shown, len(starts) * (pilot_transitions(num_steps) + 2 * num_steps))
        forwards, reverses, simulations = [], [], []
        for index, start_row in enumerate(starts):
            with stream(settings.seed, "simulation", index):
                chunk = programs_of(model, first, like(start_row, rows), structure)
                programs, latents = simulated(chunk, data_site)
            with stream(settings.seed, "pilot", index):
                kernels = adapted_kernels(programs, settings, count)
            with stream(settings.seed, "forward", index):
                forwards.append(forward_weights(programs, kernels, num_chains, count))
            with stream(settings.seed, "reverse", index):
                reverses.append(reverse_weights(programs, kernels, num_chains, latents, count))
            simulations.append(programs.x.cpu())
        forward, reverse = Weights.joined(forwards), Weights.joined(reverses)
        return BidirectionalReport(
            AnnealedLikelihood(forward.log_weight, forward.acceptance, settings),
            reverse.log_weight,
            reverse.acceptance,
            torch.cat(simulations),
        )
