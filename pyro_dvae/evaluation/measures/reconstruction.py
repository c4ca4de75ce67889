"""Reconstruction errors, and bits per dimension."""

from __future__ import annotations

import math
from typing import Any, overload

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures.codes import MeanCode, ReconstructionError, decoding_errors, gathered
from pyro_dvae.evaluation.measures.passes import (
    Program,
    checked_plate,
    chunks,
    first_chunk,
    measuring,
)
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data


@overload
def bits_per_dim(
    nats_per_datum: float, num_dimensions: int, *, scale: float = ..., levels: int | None = ...
) -> float: ...
@overload
def bits_per_dim(
    nats_per_datum: Tensor, num_dimensions: int, *, scale: float = ..., levels: int | None = ...
) -> Tensor: ...
def bits_per_dim(
    nats_per_datum: float | Tensor, num_dimensions: int, *, scale: float = 1.0, levels: int | None = None
) -> float | Tensor:
    """Convert a code length, −log p(x) in nats per observation, to bits per dimension (lower is better)::

        nats / (D log 2) + log2(scale)

    It takes a loss, not a bound: for an estimate of a bound give ``-estimate.mean``.

    A density depends on the unit of the data. If the model saw y = x / scale, the density of x is smaller by
    the factor ``scale`` in each dimension, which adds log2(scale) bits. For images of 256 levels that were
    scaled to [0, 1] by (x + u) / 256 with u uniform in [0, 1) (Theis, van den Oord and Bethge 2016), give
    ``levels=256``: this adds 8 bits, and the result bounds the bits of the discrete image. Data that are
    discrete for the model (Bernoulli pixels) have a probability, not a density, and need neither.

    :param nats_per_datum: −log p(x) or a bound's loss, a number or a tensor [...] (nats).
    :param num_dimensions: D, values in an observation.
    :param scale: number that the data were divided by.
    :param levels: the same as a number of levels within [0, 1]; give only one of the two.
    :returns: bits per dimension, shaped like ``nats_per_datum``.
    """
    dimensions = checks.count("num_dimensions", num_dimensions)
    factor = checks.positive("scale", scale)
    if levels is not None:
        if factor != 1.0:
            raise InputError(f"levels: expected either scale or levels, got scale={scale:g} and {levels!r}")
        factor = float(checks.count("levels", levels, minimum=2))
    if isinstance(nats_per_datum, Tensor):
        nats = checks.floating("nats_per_datum", nats_per_datum)
        if bool(torch.isnan(nats).any()):
            raise InputError("nats_per_datum: expected numbers, got NaN")
        return nats / (dimensions * math.log(2)) + math.log2(factor)
    return checks.number("nats_per_datum", nats_per_datum) / (dimensions * math.log(2)) + math.log2(factor)


def reconstruction_error(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    data_site: str | None = None,
    num_samples: int = 10,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> ReconstructionError:
    """Compare each row of ``data`` with the data decoded from its code, without a gradient.

    The model runs with the guide's codes as latents. The reconstruction is the mean of the distribution at
    ``data_site``, compared with the site's observed value. The mean code sets each latent in turn to the mean
    of the guide's distribution given the means before it, without a draw. It does not exist if a mean is
    unknown (a flow) or meaningless (a category).

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param data_site: name of the model's observed site to compare; by default the only one, or ``x``.
    :param num_samples: sampled codes of each observation.
    :param clean: give the guide clean input; otherwise corrupt it anew for every code.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows of ``data`` at a time; by default 2,000.
    :raises InputError: ``data`` is empty or not finite, the site does not exist, its mean is unknown, or a
        Bernoulli site observes values outside [0, 1].
    """
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    num_samples = checks.count("num_samples", num_samples)
    mean_parts: list[tuple[Tensor, Tensor | None]] = []
    sampled_parts: list[tuple[Tensor, Tensor | None]] = []
    plate = ""
    with measuring(model, guide, first_chunk(given, batch_size), clean, seed):
        for rows in chunks(given, batch_size):
            plate = plate or checked_plate(model, guide, rows)
            setter = MeanCode()
            with setter:
                trace = rows.call(poutine.trace(guide).get_trace)
            if not setter.unknown:
                mean_parts.append(decoding_errors(model, trace, rows, data_site, plate))
            runs = (rows.call(poutine.trace(guide).get_trace) for _ in range(num_samples))
            drawn = [decoding_errors(model, trace, rows, data_site, plate) for trace in runs]
            entropies = [cross for _, cross in drawn if cross is not None]
            squared = torch.stack([error for error, _ in drawn]).mean(0)
            sampled_parts.append((squared, torch.stack(entropies).mean(0) if entropies else None))
    return ReconstructionError(
        gathered(mean_parts) if mean_parts else None, gathered(sampled_parts), num_samples
    )
