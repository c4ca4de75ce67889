"""Discrete latents: the values of each in all combinations, over which a density is summed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.errors import InputError

MOST = 10_000  # combinations of values


def is_discrete(fn: Any) -> bool:
    """Return whether a distribution is one over discrete values."""
    try:
        return bool(fn.has_enumerate_support or fn.support.is_discrete)
    except NotImplementedError:  # it has no support at all
        return False


def combinations(sites: Mapping[str, dict[str, Any]], data_dim: int) -> dict[str, Tensor]:
    """Return the values of discrete latents in all K combinations, each [K, *event].

    :param sites: the latents by name, as in a trace.
    :param data_dim: dimension of the data plate.
    :raises InputError: their values cannot be listed, or there are more than 10,000 combinations.
    """
    lists = {name: _values(name, site, data_dim) for name, site in sites.items()}
    count = math.prod(len(each) for each in lists.values())
    if count > MOST:
        raise InputError(
            f"model: the discrete latents have {count:,} combinations of values, of which at most {MOST:,} "
            "can be summed over; use continuous latents, or fewer discrete ones"
        )
    index = torch.cartesian_prod(*[torch.arange(len(each)) for each in lists.values()]).reshape(count, -1)
    return {name: each[index[:, number]] for number, (name, each) in enumerate(lists.items())}


def _values(name: str, site: dict[str, Any], data_dim: int) -> Tensor:
    """Return the values of a latent, [V, *event]."""
    fn = site["fn"]
    plates = [frame.dim for frame in site["cond_indep_stack"] if frame.vectorized]
    try:
        if plates != [data_dim]:
            raise NotImplementedError
        values: Tensor = fn.enumerate_support(expand=False)
    except NotImplementedError:
        raise InputError(
            f"model: the values of the discrete latent {name!r} cannot be listed: it is a vector, has "
            "infinitely many values, or lies in a plate within a row; give each variable its own site"
        ) from None
    return values.reshape(len(values), *fn.event_shape)
