"""KL divergences in closed form, for pairs of distributions whose formula a test checks by sampling."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributions as tdist
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_dvae.internals import mask_of

_SAME = {
    *("Bernoulli", "Beta", "Binomial", "Categorical", "Cauchy", "ContinuousBernoulli", "Dirichlet"),
    *("Exponential", "Gamma", "Geometric", "Gumbel", "HalfNormal", "Laplace", "LowRankMultivariateNormal"),
    *("MultivariateNormal", "Normal", "OneHotCategorical", "Pareto", "Poisson", "Uniform"),
}
_OTHERS = {
    "Beta": {"Exponential", "Gamma", "Normal", "Uniform"},
    "ContinuousBernoulli": {"Exponential", "Normal"},
    "Exponential": {"Gamma", "Gumbel", "Normal"},
    "Gamma": {"Exponential", "Gumbel", "Normal"},
    "Gumbel": {"Normal"},
    "Laplace": {"Normal"},
    "LowRankMultivariateNormal": {"MultivariateNormal"},
    "MultivariateNormal": {"LowRankMultivariateNormal"},
    "Normal": {"Gumbel", "Laplace"},
    "Pareto": {"Exponential", "Gamma", "Normal"},
    "Uniform": {"Beta", "Exponential", "Gamma", "Gumbel", "Normal", "Pareto"},
}
PAIRS = sorted({(name, name) for name in _SAME} | {(q, p) for q, others in _OTHERS.items() for p in others})


def closed_form_kl(q: Any, p: Any) -> Tensor | None:
    """Return KL(q ‖ p) of the batch shape (nats), or None if no verified closed form exists.

    PyTorch registers further pairs and also applies them to subclasses. Some of these are wrong: a folded
    distribution does not have the divergence of its base, a ``Delta`` may have a density, and a subclass may
    be any distribution.
    """
    if isinstance(q, MaskedDistribution) or isinstance(p, MaskedDistribution):
        return _masked(q, p)
    if _name(q) == _name(p) == "Independent":
        dims = q.reinterpreted_batch_ndims
        inner = closed_form_kl(q.base_dist, p.base_dist) if dims == p.reinterpreted_batch_ndims else None
        return None if inner is None else sum_rightmost(inner, dims)
    if (_name(q), _name(p)) in PAIRS:
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)  # PyTorch's formulas fill in place
        return kl_divergence(q.expand(shape), p.expand(shape))
    if _name(q) == "Independent" and _name(q.base_dist) == "Normal" and _name(p) == "MultivariateNormal":
        return kl_divergence(q, p) if q.reinterpreted_batch_ndims == 1 else None
    if _is_transformed(q) and _is_transformed(p) and q.transforms == p.transforms:
        inner = closed_form_kl(q.base_dist, p.base_dist)
        dims = len(q.event_shape) - len(q.base_dist.event_shape)
        return None if inner is None else sum_rightmost(inner, dims)
    return None


def _masked(q: Any, p: Any) -> Tensor | None:
    if not (isinstance(q, MaskedDistribution) and isinstance(p, MaskedDistribution)):
        return None
    one, other = mask_of(q), mask_of(p)
    if isinstance(one, bool) or isinstance(other, bool):
        if one is not other:
            return None
        return closed_form_kl(q.base_dist, p.base_dist) if one else torch.zeros(q.batch_shape)
    inner = closed_form_kl(q.base_dist, p.base_dist) if one is other or torch.equal(one, other) else None
    return None if inner is None else torch.where(one, inner, inner.new_zeros(()))


def _name(distribution: Any) -> str | None:
    """Return the name of a distribution class of torch, also wrapped by Pyro; None for any other class."""
    kind = type(distribution)
    known = getattr(tdist, kind.__name__, None)
    own = kind is known or (kind.__module__.startswith("pyro.distributions") and known in kind.__mro__)
    return str(kind.__name__) if own else None


def _is_transformed(distribution: Any) -> bool:
    if _name(distribution) not in ("TransformedDistribution", "LogNormal"):
        return False
    return all(transform.bijective for transform in distribution.transforms)
