"""Decoding of latents to observations: decode, reconstruct, denoise, sample, interpolate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.evaluation.measures.denoised import denoised_counts
from pyro_dvae.evaluation.measures.means import mean_of
from pyro_dvae.evaluation.measures.passes import MEMORY, Program, Site, at_site, by_row, rows_within
from pyro_dvae.programs.observations import latent_names, observed_name
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.programs.plates import data_frames, size_at
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.using.codes import Codes, encode
from pyro_dvae.using.generated import generating


def decode(
    model: Program,
    codes: Codes | Mapping[str, Tensor] | Tensor,
    data: Any,
    *args: Any,
    site: str | None = None,
    data_site: str | None = None,
    values: bool = False,
    seed: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Tensor:
    """Return E[x | z] of each code, or a draw, without a gradient.

    :param model: Pyro model of a batch, with one data plate.
    :param codes: codes of N rows: a result of :func:`encode`, tensors by site, or the tensor of ``site``
        [N, ...].
    :param data: N rows like the model's, or one row; only their shape and type matter.
    :param args: further data of the model, likewise; their values matter, also where it observes them.
    :param kwargs: further arguments of the model, passed unchanged.
    :param site: latent site of a single tensor; by default the only one, or ``z``.
    :param data_site: the observed site to return; by default the only one, or ``x``.
    :param values: draw from the likelihood, instead of its mean.
    :param seed: seed of a separate random stream; None uses the global one.
    :param memory: approximate number of bytes to use in addition to data and results.
    :raises InputError: a site does not exist, its mean is unknown, or there are not N rows.
    """
    checks.program("model", model)
    site = checks.optional(checks.text, "site", site)
    found = codes.mean if isinstance(codes, Codes) else {site: codes} if isinstance(codes, Tensor) else codes
    tensors = isinstance(found, Mapping) and all(isinstance(z, Tensor) and z.dim() for z in found.values())
    if not tensors or len({len(z) for z in found.values()}) != 1 or not len(next(iter(found.values()))):
        raise InputError("codes: expected the result of encode, or tensors of the same N codes by site")
    count = len(next(iter(found.values())))
    given = Data.opened("data", (data, *args), kwargs, float_type(model))
    if len(given) not in (1, count):
        raise InputError(f"data: expected one row, or the {count} rows of the codes, got {len(given)}")

    size, parts = rows_within(memory, given), []
    with _apart(model, given, seed):
        drawn = generating(model, given[:1], data_site)
        sites, plate = _sites_and_plate(drawn, given)
        latents = found if isinstance(codes, Codes) else _of_latents(found, sites)
        for start in range(0, count, size):
            own = {name: z[start : start + size].to(given.device) for name, z in latents.items()}
            own = {
                name: at_site(z, sites[name], plate) if _within(sites.get(name), plate) else z
                for name, z in own.items()
            }
            index = torch.arange(start, min(start + size, count)) % len(given)
            program = poutine.condition(drawn, own)
            parts.append(_observed(program, given[index], plate, data_site, values).cpu())
    return torch.cat(parts)


def _of_latents(codes: Mapping[Any, Tensor], sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """Return codes by the latents of a model; without a name those of the only one, or of ``z``."""
    known = latent_names(sites)
    only = known[0] if len(known) == 1 else "z"
    return {checks.known("site", only if name is None else name, known): z for name, z in codes.items()}


def _sites_and_plate(model: Program, given: Data) -> tuple[dict[str, Site], str]:
    """Return the sites of a model, and its plate of the rows, whose size follows the number of rows."""
    plates: list[set[str]] = []
    for count in (3, 2):
        with forked():
            nodes = given[torch.arange(count) % len(given)].call(poutine.trace(model).get_trace).nodes
        sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
        frames = [frame for site in sites.values() for frame in data_frames(site)]
        plates.append({frame.name for frame in frames if frame.size == count})
    return sites, next(iter(set.intersection(*plates)), "")


def _within(site: Site | None, plate: str) -> bool:
    return site is not None and any(frame.name == plate for frame in data_frames(site))


def reconstruct(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_samples: int = 20,
    data_site: str | None = None,
    clean: bool = True,
    library_size: float | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Tensor:
    """Return the posterior predictive mean E_{q(z|x)} E[x | z] of each row of ``data``, without a gradient.

    :param num_samples: draws of the latents of each row that are averaged.
    :param data_site: the observed site to return; by default the only one, or ``x``.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param library_size: common total of all rows of counts; None keeps the rows' own totals.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows at a time, at most; by default 2,000.
    :param memory: approximate number of bytes to use in addition to data and results.
    :raises InputError: the data are invalid, or the mean at ``data_site`` is unknown.

    The other parameters are those of :func:`encode`.
    """
    checks.pair(model, guide)
    checks.flag("clean", clean)
    found = denoised_counts(
        model,
        guide,
        data,
        *args,
        data_site=data_site,
        num_samples=num_samples,
        clean=clean,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        **kwargs,
    ).cpu()
    if library_size is None:
        return found
    checks.positive("library_size", library_size)
    if bool((found < 0).any()):
        raise InputError("library_size: expected a model of counts, got means below 0")
    total = found.reshape(len(found), -1).sum(1).reshape(-1, *[1] * (found.dim() - 1))
    return found * (library_size / torch.where(total > 0, total, 1.0))


def denoise(model: Program, guide: Program, data: Any, *args: Any, **options: Any) -> Tensor:
    """Return the posterior predictive mean of each noisy row.

    The guide gets the noisy row without further noise, as in training with a corruption. A guide that was
    trained without noise has never seen such rows.

    :param data: noisy rows [N, ...], from any source.
    :param options: those of :func:`reconstruct`, except ``clean``.
    """
    if "clean" in options:
        raise InputError("clean: the given rows are already noisy; use reconstruct to add noise")
    return reconstruct(model, guide, data, *args, **options)


def sample(
    model: Program,
    data: Any,
    *args: Any,
    num_samples: int = 1,
    data_site: str | None = None,
    values: bool = True,
    seed: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Tensor:
    """Draw latents from the prior and observations from them, [num_samples, ...].

    :param model: Pyro model of a batch, with one data plate.
    :param data: one row like the model's, or ``num_samples`` rows; only their shape and type matter.
    :param args: further data of the model (labels), one row or ``num_samples``; their values matter, also
        where the model observes them.
    :param kwargs: further arguments of the model, passed unchanged.
    :param num_samples: number of rows to draw.
    :param data_site: the observed site to return; by default the only one, or ``x``.
    :param values: draw from the likelihood; False for its mean.
    :param seed: seed of a separate random stream; None uses the global one.
    :param memory: approximate number of bytes to use in addition to data and results.
    """
    checks.program("model", model)
    num_samples = checks.count("num_samples", num_samples)
    given = Data.opened("data", (data, *args), kwargs, float_type(model))
    size, parts = rows_within(memory, given), []
    with _apart(model, given, seed):
        drawn = generating(model, given[:1], data_site)
        plate = _sites_and_plate(drawn, given)[1]
        for start in range(0, num_samples, size):
            index = torch.arange(start, min(start + size, num_samples)) % len(given)
            parts.append(_observed(drawn, given[index], plate, data_site, values).cpu())
    return torch.cat(parts)


def interpolate(
    model: Program,
    guide: Program,
    start: Any,
    end: Any,
    *,
    steps: int = 8,
    data_site: str | None = None,
    num_samples: int = 100,
    seed: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Tensor:
    """Return E[x | z] on the line from the mean code of one row to the mean code of another.

    :param start: rows [N, ...], from any source; a tuple for several data arguments, of which the further
        ones (labels) hold on the whole line.
    :param end: as many rows.
    :param steps: points on each line, both ends included, at least 2.
    :param data_site: the observed site to return; by default the only one, or ``x``.
    :param num_samples: runs of the guide if one does not give the mean code.
    :param seed: seed of a separate random stream; None uses the global one.
    :param memory: approximate number of bytes to use in addition to data and results.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :returns: [steps, N, ...].
    """
    steps = checks.count("steps", steps, minimum=2)
    floats = float_type(model, guide)
    rows = [
        Data.opened(name, each if isinstance(each, tuple) else (each,), kwargs, floats)
        for name, each in (("start", start), ("end", end))
    ]
    ends = [encode(model, guide, each, num_samples=num_samples, seed=seed, memory=memory) for each in rows]
    if len(ends[0]) != len(ends[1]):
        raise InputError(f"end: expected {len(ends[0])} rows as in start, got {len(ends[1])}")
    found = []
    for weight in torch.linspace(0, 1, steps).tolist():
        codes = {name: (1 - weight) * z + weight * ends[1][name] for name, z in ends[0].mean.items()}
        found.append(decode(model, codes, rows[0], data_site=data_site, memory=memory))
    return torch.stack(found)


def _observed(
    program: Callable[..., Any], rows: Arguments, plate: str, data_site: str | None, values: bool
) -> Tensor:
    nodes = rows.call(poutine.trace(program).get_trace).nodes
    site = nodes[observed_name(nodes, data_site)]
    inside = _within(site, plate)
    if not inside:
        _require_rows(site, len(rows))
    if values:
        drawn: Tensor = site["value"]
        return by_row(drawn, site, plate) if inside else drawn
    mean = mean_of(site["fn"])
    if mean is None or bool(torch.isnan(mean).all()):
        kind = type(site["fn"]).__name__
        raise InputError(
            f"data_site: expected a distribution with a mean at {site['name']!r}, got {kind}; "
            "give values=True"
        )
    return by_row(mean, site, plate) if inside else mean


def _require_rows(site: dict[str, Any], count: int) -> None:
    """Refuse a site without a row for each of ``count`` rows."""
    frames, shape = data_frames(site), site["fn"].batch_shape
    if site["value"].shape[:1] != (count,) or (frames and shape[:1] != (count,)):
        plates = [(frame.name, size_at(site, frame)) for frame in frames]
        found = ", ".join(f"plate {name!r} of {size}" for name, size in plates) or "no plate"
        raise InputError(
            f"model: expected {count} rows at site {site['name']!r}, got {found} and shape "
            f"{tuple(site['value'].shape)}; put its sites into a plate of the rows, "
            "pyro.plate('data', len(x))"
        )


@contextmanager
def _apart(model: Program, given: Data, seed: int | None) -> Iterator[None]:
    """Run the body without gradients, in evaluation mode, and with a seed on a separate random stream."""
    store = pyro.get_param_store()
    before = set(store.keys())
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if seed is not None:
            stack.enter_context(forked(checks.count("seed", seed, minimum=0)))
        try:
            stack.enter_context(evaluation_mode(model, None, given[:1]))
            yield
        finally:
            for name in set(store.keys()) - before:
                del store[name]
