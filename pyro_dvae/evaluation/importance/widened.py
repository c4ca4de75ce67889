"""Distributions with heavier spread than a guide's, for proposals that must cover the posterior."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch.distributions as tdist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_dvae.bounds.leaves import is_point
from pyro_dvae.errors import InputError
from pyro_dvae.sites import is_uncounted


def widened(guide: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """Return the guide with each latent drawn from :func:`wider` of its distribution."""
    return guide if factor == 1 else _Widen(factor)(guide)


class _Widen(Messenger):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_uncounted(msg) or msg["is_observed"] or site_is_subsample(msg) or is_point(msg["fn"]):
            return
        try:
            msg["fn"] = wider(msg["fn"], self.factor)
        except NotImplementedError:
            raise InputError(
                f"widen: no wider form of {type(msg['fn']).__name__} at site {msg['name']!r} is known; "
                "use widen=1 (a defensive share of prior draws works for every distribution)"
            ) from None


@singledispatch
def wider(distribution: Any, factor: float) -> Any:
    """Return a distribution of the same location with ``factor`` times the scale.

    Of a discrete one the log-odds are divided by ``factor``; of a transformed one the base is widened.
    """
    raise NotImplementedError


@wider.register(tdist.Normal)
@wider.register(tdist.Laplace)
@wider.register(tdist.Cauchy)
@wider.register(tdist.LogNormal)
def _(distribution: Any, factor: float) -> Any:
    return type(distribution)(distribution.loc, distribution.scale * factor)


@wider.register(tdist.HalfNormal)
@wider.register(tdist.HalfCauchy)
def _(distribution: Any, factor: float) -> Any:
    return type(distribution)(distribution.scale * factor)


@wider.register(tdist.StudentT)
def _(distribution: tdist.StudentT, factor: float) -> Any:
    return dist.StudentT(distribution.df, distribution.loc, distribution.scale * factor)


@wider.register(tdist.MultivariateNormal)
def _(distribution: tdist.MultivariateNormal, factor: float) -> Any:
    return dist.MultivariateNormal(distribution.loc, scale_tril=distribution.scale_tril * factor)


@wider.register(tdist.LowRankMultivariateNormal)
def _(distribution: tdist.LowRankMultivariateNormal, factor: float) -> Any:
    return dist.LowRankMultivariateNormal(
        distribution.loc, distribution.cov_factor * factor, distribution.cov_diag * factor**2
    )


@wider.register(tdist.Bernoulli)
@wider.register(tdist.Categorical)
@wider.register(tdist.OneHotCategorical)
def _(distribution: Any, factor: float) -> Any:
    return type(distribution)(logits=distribution.logits / factor)


@wider.register(tdist.Independent)
def _(distribution: tdist.Independent, factor: float) -> Any:
    return dist.Independent(wider(distribution.base_dist, factor), distribution.reinterpreted_batch_ndims)


@wider.register(tdist.TransformedDistribution)
def _(distribution: tdist.TransformedDistribution, factor: float) -> Any:
    if not all(transform.bijective for transform in distribution.transforms):
        raise NotImplementedError
    return dist.TransformedDistribution(wider(distribution.base_dist, factor), distribution.transforms)


@wider.register(dist.ExpandedDistribution)
def _(distribution: dist.ExpandedDistribution, factor: float) -> Any:
    return wider(distribution.base_dist, factor).expand(distribution.batch_shape)


@wider.register(dist.MaskedDistribution)
def _(distribution: dist.MaskedDistribution, factor: float) -> Any:
    return wider(distribution.base_dist, factor).mask(distribution._mask)
