"""Bits per dimension."""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError


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
    """Convert a code length, −log p(x) in nats per datum, to bits per dimension (less is better)::

        nats / (D log 2) + log2(scale)

    It takes a loss, not a bound: for an estimate of a bound give ``-estimate.mean``.

    A density depends on the unit of the data. If the model saw y = x / scale, its density of x is smaller by
    ``scale`` in each dimension, so that log2(scale) bits are to be added. For images of 256 levels that were
    brought into [0, 1] by (x + u) / 256, with u uniform in [0, 1) (Theis, van den Oord and Bethge 2016), say
    ``levels=256``: 8 bits are added, and the result bounds the bits of the discrete image. Data that were
    discrete for the model (Bernoulli pixels) have a probability, not a density, and need neither.

    :param nats_per_datum: −log p(x) or a bound's loss, a number or a tensor [...] (nats).
    :param num_dimensions: D, values in a datum.
    :param scale: what the data were divided by before the model.
    :param levels: the same as a number of levels within [0, 1]; give one of the two.
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
