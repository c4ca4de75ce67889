"""Posterior predictive means of rows, and of their log-normalised counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures.means import mean_of
from pyro_dvae.evaluation.measures.passes import (
    MEMORY,
    Program,
    Site,
    by_row,
    checked_plate,
    measuring,
    rows_within,
)
from pyro_dvae.programs.observations import observed_name
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import is_circular

_DEPTH = 10_000.0  # of log-normalised counts


def log_normalised(counts: Tensor) -> Tensor:
    """Return log(1 + 10⁴ x / Σ x) of rows [N, D]; an empty row gives zeros."""
    total = counts.sum(1, keepdim=True)
    return torch.log1p(counts * (_DEPTH / torch.where(total > 0, total, 1.0)))


def denoised_counts(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    data_site: str | None = None,
    num_samples: int = 20,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Tensor:
    """Return the expected observation E_{q(z|x)} E[x | z] of each row [N, ...], without a gradient.

    :param model: Pyro model of a batch, with one data plate; it should give a decoder of counts the totals of
        the rows, as the ready-made models do.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param data_site: name of the model's observed site; by default the only one, or ``x``.
    :param num_samples: draws of the latents that are averaged.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows at a time, at most; by default 2,000.
    :param memory: approximate number of bytes to use in addition to data and results.
    :raises InputError: if the site's distribution has no known mean, or is of angles.
    """

    def mean(site: Site) -> Tensor:
        found = mean_of(site["fn"])
        if found is None or bool(torch.isnan(found).all()):
            raise InputError(f"data_site: the distribution at {site['name']!r} has no known mean")
        if is_circular(site["fn"]):
            raise InputError(
                f"data_site: {site['name']!r} is an angle, whose means would be averaged as numbers; "
                "use decode"
            )
        return found

    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    size = rows_within(memory, given, batch_size)
    return _averaged(model, guide, given, mean, data_site, num_samples, clean, seed, size)


def denoised_logs(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    depth: float = 1.0,
    data_site: str | None = None,
    num_samples: int = 100,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Tensor:
    """Return the expected log-normalised counts E_{q(z|x)} E[log(1 + 10⁴ y / Σ y) | z] of each row, [N, D].

    They minimise the squared error of the logarithms of new counts y with ``depth`` times the row's total.
    The logarithm of an expected count is larger, especially for few counts.

    :param depth: total of the new counts, as a factor of the row's own.
    :param num_samples: draws of latents and counts that are averaged.

    The other parameters are those of :func:`denoised_counts`.
    """

    def logs(site: Site) -> Tensor:
        drawn: Tensor = site["fn"].sample()
        return log_normalised(drawn.flatten(1)).reshape(drawn.shape)

    checks.positive("depth", depth)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    size = rows_within(memory, given, batch_size)
    return _averaged(model, guide, given, logs, data_site, num_samples, clean, seed, size, depth)


def _averaged(
    model: Program,
    guide: Program,
    given: Data,
    value: Callable[[Site], Tensor],
    data_site: str | None,
    num_samples: int,
    clean: bool,
    seed: int | None,
    size: int,
    depth: float = 1.0,
) -> Tensor:
    """Return the average of ``value`` of the observed site over draws of the guide."""
    num_samples = checks.count("num_samples", num_samples)
    plate, parts = "", []

    def run(rows: Arguments) -> Tensor:
        codes = rows.call(poutine.trace(guide).get_trace)
        known = rows if depth == 1.0 else rows.of(rows.x * depth)  # the model reads the totals from its rows
        nodes = known.call(poutine.trace(poutine.replay(model, trace=codes)).get_trace).nodes
        site = nodes[observed_name(nodes, data_site)]
        return by_row(value(site), site, plate)

    with measuring(model, guide, given[:2], clean, seed):
        for rows in given.split(size):
            plate = plate or checked_plate(model, guide, rows)
            parts.append(functools.reduce(torch.add, (run(rows) for _ in range(num_samples))) / num_samples)
    return torch.cat(parts)
