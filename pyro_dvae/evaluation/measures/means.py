"""Posterior means of the latents: the codes of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures.passes import (
    Moments,
    Program,
    Site,
    by_row,
    checked_plate,
    chunks,
    first_chunk,
    measuring,
)
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import Auxiliary, is_circular


@dataclass(frozen=True)
class CodeMean:
    """The posterior means of one latent site for the rows of a chunk.

    :param mean: E_q[z|x], shape [n, ...].
    :param variance: squared standard error of ``mean``, same shape; None if it is exact.
    """

    mean: Tensor
    variance: Tensor | None = None


def latent_means(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_samples: int = 100,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """Return the posterior mean E_{q(z|x)}[z] of every latent for each row of ``data``, without a gradient.

    This is the mean of the guide's distribution; for a categorical latent, the probabilities. If a site may
    depend on an earlier draw of the guide (a deeper stochastic layer, or a corruption if ``clean`` is False),
    its mean is averaged over ``num_samples`` runs of the guide; the result is exact if the mean does not
    depend on the draw. If the mean of a site's distribution is not available, its draws are averaged in the
    same way.

    :param model: Pyro model of a batch, with one data plate; it is run once, to check the guide against it.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_samples: runs of the guide if one is not enough.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows of ``data`` at a time; by default 2,000.
    :returns: for each latent site a tensor [N, *inner plates, *event] on the CPU.
    :raises InputError: if ``data`` is empty or not finite, there is no latent or data plate, a mean is NaN,
        or draws of an angle would be averaged.
    """
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    num_samples = checks.count("num_samples", num_samples)
    parts: dict[str, list[Tensor]] = {}
    with measuring(model, guide, first_chunk(given, batch_size), clean, seed):
        for codes in stream_means(model, guide, given, num_samples, batch_size):
            for name, code in codes.items():
                parts.setdefault(name, []).append(code.mean.to("cpu", code.mean.dtype))
    return {name: torch.cat(blocks) for name, blocks in parts.items()}


def stream_means(
    model: Program, guide: Program, data: Data, num_samples: int, batch_size: int | None
) -> Iterator[dict[str, CodeMean]]:
    """Yield the means of every latent site, chunk by chunk; use it inside :func:`measuring`."""
    plate = ""
    for rows in chunks(data, batch_size):
        plate = plate or checked_plate(model, guide, rows)
        yield _means(guide, rows, plate, num_samples)


def mean_of(fn: Distribution) -> Tensor | None:
    """Return the mean of a distribution [*batch, *event] (NaN if it has none), or None if unknown.

    That of an angle is its mean direction, which is not the mean of the directions of a mixture.
    """
    if is_circular(fn) and hasattr(base_of(fn), "component_distribution"):
        return None
    try:
        return fn.mean
    except (NotImplementedError, AttributeError):
        return None


def base_of(fn: Distribution) -> Distribution:
    """Return a distribution without masks and declared independence."""
    while isinstance(fn, Independent | MaskedDistribution | Auxiliary):
        fn = fn.base_dist
    return fn


def _means(guide: Program, rows: Arguments, plate: str, num_samples: int) -> dict[str, CodeMean]:
    sites = guide_sites(guide, rows)
    found: dict[str, CodeMean] = {}
    sampled: dict[str, Moments] = {}
    random = False
    for site in sites:
        if not site["infer"].get("is_auxiliary"):
            code, known = _code(site, plate, len(rows))
            found[site["name"]] = CodeMean(code)
            if random or not known:
                if is_circular(site["fn"]):
                    raise InputError(
                        f"guide: {site['name']!r} is an angle, whose draws would be averaged as numbers; "
                        "use encode"
                    )
                sampled[site["name"]] = Moments()
                sampled[site["name"]].add(code[None])
        random = random or not isinstance(base_of(site["fn"]), Delta)
    if sampled:
        for _ in range(num_samples - 1):
            for site in guide_sites(guide, rows):
                if site["name"] in sampled:
                    sampled[site["name"]].add(_code(site, plate, len(rows))[0][None])
    for name, moments in sampled.items():
        found[name] = CodeMean(moments.mean.to(found[name].mean), moments.variance / moments.count)
    return found


def guide_sites(guide: Program, rows: Arguments) -> list[Site]:
    """Return the sites that a run of the guide drew, in order."""
    trace = rows.call(poutine.trace(guide).get_trace)
    nodes = [site for site in trace.nodes.values() if site["type"] == "sample"]
    return [site for site in nodes if not site["is_observed"] and not site_is_subsample(site)]


def _code(site: Site, plate: str, size: int) -> tuple[Tensor, bool]:
    """Return the mean of a latent [n, ...], or its value if the mean is unknown, and whether it is known."""
    base = base_of(site["fn"])
    mean = base.probs if isinstance(base, Categorical) else mean_of(site["fn"])
    code = by_row(site["value"] if mean is None else mean, site, plate)
    if len(code) != size:
        raise InputError(f"guide: its plate {plate!r} has {len(code)} elements where a chunk has {size} rows")
    if not bool(torch.isfinite(code).all()):
        kind = type(base).__name__
        raise InputError(f"guide: expected finite means of {site['name']!r}, got NaN or infinity from {kind}")
    return code if code.is_floating_point() else code.double(), mean is not None
