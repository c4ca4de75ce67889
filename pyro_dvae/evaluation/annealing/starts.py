"""The first points of chains: draws from the prior or the guide, or given latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.density import AnnealedPrograms, ChainState, Density, Packing
from pyro_dvae.evaluation.annealing.scoring import ChainPlate, FixedSites, Unconstraining, first_values
from pyro_dvae.evaluation.annealing.structure import Program, Structure
from pyro_dvae.programs.plates import Subsamples
from pyro_dvae.rows import Arguments
from pyro_dvae.sites import is_point


@torch.no_grad()
def programs_of(
    model: Program, guide: Program | None, given: Arguments, structure: Structure
) -> AnnealedPrograms:
    """Return the programs of a batch, with the rows of subsampled plates fixed for all later runs."""
    programs = AnnealedPrograms(model, guide, given, structure, {})
    for program in (model, guide):
        if program is not None:
            subsamples = Subsamples()
            programs.run(program, subsamples)
            sites = subsamples.sites
            drawn = {name: s["value"] for name, s in sites.items() if len(s["value"]) < s["fn"].size}
            programs = replace(programs, held={**programs.held, **drawn})
    return programs


@torch.no_grad()
def begin(
    programs: AnnealedPrograms, num_chains: int, latents: Mapping[str, Tensor] | None = None
) -> tuple[Density, ChainState]:
    """Start the chains of each row at draws from p_0, or all of them at given latents.

    Auxiliary sites of the guide are drawn once per chain and then fixed: given them, p_0 is a density.

    :param latents: by name, each [1, *plates, *event]; None draws them.
    :raises InputError: a draw of the guide lies outside the support of the model's latent, a log-density is
        NaN, or the model is random given its latents.
    """
    structure = programs.structure
    held: dict[str, Tensor] = dict(programs.held)
    values: dict[str, Tensor] = {}
    if latents is not None:
        values = {name: value.expand(num_chains, *value.shape[1:]) for name, value in latents.items()}
    if latents is None or programs.guide is not None:
        tracer = poutine.trace()
        first = programs.model if programs.guide is None else programs.guide
        programs.run(first, tracer, ChainPlate(num_chains, structure.chain_dim), FixedSites(values))
        for name, site in tracer.trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            if name in structure.latents:
                values.setdefault(name, site["value"])
            elif site["infer"].get("is_auxiliary") and not is_point(site["fn"]):
                of_chains = site["value"].dim() - site["fn"].event_dim > structure.nesting
                value = [site["value"]] * (structure.combinations if of_chains else 1)
                held[name] = torch.cat(value)  # for all values of the discrete latents
    programs = replace(programs, held=held)
    places = Unconstraining(structure, values)
    programs.run(programs.model, places, *first_values(structure, num_chains, len(programs.x)))
    for name, place in places.points.items():
        if not bool(torch.isfinite(place).all()):
            raise InputError(
                f"{'model' if programs.guide is None else 'guide'}: draws of the latent {name!r} lie outside "
                "its support in the model"
            )
    packing = Packing.of(places.points, 1 + structure.nesting + structure.data_dim)
    density = Density(programs, packing)
    point = density(packing.pack(places.points))
    _check(density, point, len(programs.x))
    return density, point


def _check(density: Density, point: ChainState, rows: int) -> None:
    found = point.position.shape[1]
    if found != rows:
        raise InputError(f"model: expected one plate with the {rows} rows of a batch, got one of {found}")
    for name, value in (("latents", point.base), ("data", point.increment)):
        if bool(torch.isnan(value).any()):
            raise InputError(
                f"model: its log-density of the {name} is NaN for {int(value.isnan().sum())} draws"
            )
    with torch.no_grad():
        base, increment = density.log_densities(point.position)
    for first, second in ((point.base, base), (point.increment, increment)):
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
            raise InputError(
                "model: two runs with the same latents give different densities, so it has further random "
                "parts (dropout? call .eval() first)"
            )
