"""Data simulated from a model, together with the latents they come from."""

from __future__ import annotations

from dataclasses import replace

from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.density import Programs
from pyro_dvae.evaluation.annealing.structure import Program, Structure
from pyro_dvae.sites import clean_input


def example_data(model: Program, like: Tensor, data_site: str) -> Tensor:
    """Draw data shaped like ``like`` from a model about which nothing is known yet.

    :raises InputError: ``data_site`` is not what the model observes, or not all of it.
    """
    with poutine.block(), clean_input():
        trace = poutine.trace(poutine.uncondition(model)).get_trace(like)
    observed = [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and site["infer"].get("was_observed")
        and not site["infer"].get("_deterministic")
    ]
    if not observed:
        raise InputError("model: expected an observed sample site (obs=x), got none")
    checks.known("data_site", data_site, observed)
    if len(observed) > 1:
        other = next(name for name in observed if name != data_site)
        raise InputError(f"model: it observes {other!r} beside {data_site!r}, and only one can be simulated")
    return _shaped(trace.nodes[data_site]["value"], like, data_site)


def simulated(programs: Programs, data_site: str) -> tuple[Programs, dict[str, Tensor]]:
    """Draw z ~ p(z), x ~ p(x|z): z is then an exact sample of the posterior of x (Grosse et al. 2015).

    :param programs: those of data of the right shape, whose values do not matter.
    :returns: the programs of the simulated data, and the latents, each [1, *plates, *event].
    """
    tracer = poutine.trace()
    programs.run(poutine.uncondition(programs.model), tracer)
    sites = tracer.trace.nodes
    x = _shaped(sites[data_site]["value"], programs.x, data_site)
    latents = {name: _with_plates(sites[name], programs.structure) for name in programs.structure.latents}
    return replace(programs, given=programs.given.of(x)), latents


def _shaped(value: Tensor, like: Tensor, data_site: str) -> Tensor:
    if value.shape != like.shape:
        raise InputError(
            f"x_like: expected the shape of the site {data_site!r}, {tuple(value.shape)}, got "
            f"{tuple(like.shape)}"
        )
    return value.detach()


def _with_plates(site: dict, structure: Structure) -> Tensor:
    """Return a site's value [1, *plates, *event], with a dimension for every plate and one for chains."""
    value: Tensor = site["value"].detach()
    batch = value.dim() - site["fn"].event_dim
    return value.reshape((1,) * (structure.nesting + 1 - batch) + value.shape)
