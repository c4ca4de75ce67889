"""The plate of the rows of a batch, by one rule for training, likelihoods, draws and remarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.plates import data_frames, is_deterministic, size_remedy, sized
from pyro_dvae.sites import DRAW_PLATES

Site = dict[str, Any]
Plates = dict[str, CondIndepStackFrame]


def data_plates(sites: Iterable[Site], rows: int, drawn: bool = False) -> Plates:
    """Return the plates that may hold the rows of a batch, by name: one, if a program is clear.

    They have ``rows`` elements and are around the observed sites, or the latents if nothing is observed. A
    site in no such plate (a global factor) does not count. If there are several plates, those around the
    latents, too, are taken, then those of the first dimension of the observed values: a plate of the columns
    may have as many elements as there are rows.

    :param sites: the sample sites of a model.
    :param rows: B.
    :param drawn: also plates that draw some of the rows, ``plate("data", len(x), subsample_size=5)``.
    """
    known = [site for site in sites if not is_deterministic(site)]
    observed = [site for site in known if site["is_observed"]]
    found = _around(observed or known, rows, drawn)
    if len(found) > 1:
        found = _around(known, rows, drawn)
    if len(found) > 1:
        first = {name for site in observed for name in found if leads(site, name)}
        found = {name: found[name] for name in first} or found
    return found


def the_data_plate(sites: Iterable[Site], rows: int, why: Callable[[], str] = str) -> CondIndepStackFrame:
    """Return the one vectorised plate of the rows of a batch.

    :param why: finds the reason for there being none, for the message.
    :raises InputError: there is not one, or not all sites in it have the rows.
    """
    sites = [site for site in sites if not is_deterministic(site)]
    plates = [plate for plate in data_plates(sites, rows).values() if plate.vectorized]
    if len(plates) != 1 or sizes_in(sites)[plates[0].name] != {rows}:
        raise not_one_plate(sites, rows, why())
    return plates[0]


def by_rows(draws: Draws, rows: int) -> Draws:
    """Return draws with a weight for each row, also if further plates are around all sites.

    An item of a row with its own latents has a bound of its own; in a likelihood, it belongs to its row.
    """
    frames = draws.datum_frames()
    own = data_plates([*draws.model_sites(), *draws.counted_sites()], rows) if len(frames) > 1 else {}
    found = [frame for frame in frames if frame.name in own]
    return replace(draws, frames=found) if len(found) == 1 else draws


def not_one_plate(sites: Iterable[Site], rows: int, why: str = "") -> InputError:
    """Return the refusal of sites that share no plate of ``rows`` rows, with their plates."""
    sites = list(sites)
    found = [
        f"{name!r} of {' and '.join(map(str, sorted(sizes)))}" for name, sizes in sizes_in(sites).items()
    ]
    remedy = size_remedy(frame for site in sites for frame in site["cond_indep_stack"])
    return InputError(
        f"model: expected one plate with the {rows} rows of a batch around all sites, got "
        f"{', '.join(found) or 'none'}{remedy}{why}"
    )


def sizes_in(sites: Iterable[Site]) -> dict[str, set[int]]:
    """Return the numbers of elements that the vectorised plates have at the sites, by name."""
    sizes: dict[str, set[int]] = {}
    for site in sites:
        for frame in data_frames(site):
            sizes.setdefault(frame.name, set()).add(int(frame.size))
    return sizes


def other_counts(of_model: Site, of_guide: Site) -> str:
    """Return why a loss is no bound: rows of a latent count N / B times in one program, once in the other.

    Empty if they count equally.
    """
    scales = [site["scale"] for site in (of_model, of_guide)]
    if any(isinstance(scale, Tensor) for scale in scales) or math.isclose(*scales):
        return ""
    counts = [
        {f.name: max(1.0, (f.full_size or f.size) / (f.size or 1)) for f in site["cond_indep_stack"]}
        for site in (of_model, of_guide)
    ]
    for name in counts[0].keys() & counts[1].keys():
        in_model, in_guide = (each[name] for each in counts)
        if not math.isclose(in_model, in_guide):
            return (
                f"plate {name!r} counts a row of latent {of_guide['name']!r} as {in_guide:g} in the guide, "
                f"but as {in_model:g} in the model, so the loss is no bound; give both plates the same size "
                f"and subsample_size, pyro.plate({name!r}, N, subsample_size=len(x))"
            )
    return ""


def plates_around(site: Site) -> set[str]:
    """Return the names of the plates around a site."""
    return {frame.name for frame in site["cond_indep_stack"]}


def leads(site: Site, name: str) -> bool:
    """Return whether a plate is a loop around a site, or that of the first dimension of its value."""
    batch_dim = site["value"].dim() - len(site["fn"].event_shape)
    frames = (frame for frame in site["cond_indep_stack"] if frame.name == name)
    return any(not frame.vectorized or batch_dim + frame.dim == 0 for frame in frames)


def _around(sites: list[Site], rows: int, drawn: bool) -> Plates:
    """Return the plates of the rows that surround all sites in any; if there are none, all of them."""
    each = [found for site in sites if (found := _plates(site, rows, drawn))]
    every: Plates = {name: frame for found in each for name, frame in found.items()}
    common = {name: frame for name, frame in every.items() if all(name in found for found in each)}
    return common or every


def _plates(site: Site, rows: int, drawn: bool) -> Plates:
    frames = [sized(site, frame) for frame in site["cond_indep_stack"] if frame.name not in DRAW_PLATES]
    return {
        frame.name: frame for frame in frames if frame.size == rows or (drawn and frame.full_size == rows)
    }
