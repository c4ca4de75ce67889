"""The proposals of importance sampling, and their log-weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as tdist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds.reductions import log_mean_exp
from pyro_dvae.errors import InputError
from pyro_dvae.internals import mask_of
from pyro_dvae.programs.data_plate import by_rows
from pyro_dvae.programs.drawing import draw, draw_from_prior
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.plates import Layout
from pyro_dvae.programs.rerun import density_of_others, given_corruptions, mixture_density
from pyro_dvae.programs.vectorised import naming_draws
from pyro_dvae.sites import clean_input, is_point, is_uncounted


def widened(guide: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """Return the guide with each latent's distribution replaced by its :func:`wider` form."""
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

    For a discrete distribution, the log-odds are divided by ``factor``; for a transformed one, the base is
    widened.
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
    return wider(distribution.base_dist, factor).mask(mask_of(distribution))


KINDS = ("clean", "corrupted", "mixture")


@dataclass(frozen=True)
class Proposal:
    """The distribution that the latents are drawn from; every kind gives weights with E w = p(x).

    ``clean``: q(z|x), the guide with its corruption turned off. Other noise ε of the guide (as in
    ``ImplicitGuide``) remains and is drawn anew for each sample: q(z|x, ε). ``corrupted``: q(z|x̃) with a new
    x̃ for each sample. ``mixture``: 1/M Σ_m q(z|x̃_m), with the same number of draws from each component, the
    whole mixture in the denominator (the balance heuristic of Veach and Guibas 1995), and new corruptions in
    each pass.

    :param kind: one of the three.
    :param num_corruptions: M of the mixture.
    :param defensive: share of the draws that come from the prior, with the mixture of both in the denominator
        (Hesterberg 1995), so that a weight is at most p(x|z) / share.
    :param widen: factor of the scale of the guide's latents.
    """

    kind: str = "clean"
    num_corruptions: int = 10
    defensive: float = 0.0
    widen: float = 1.0

    def __post_init__(self) -> None:
        checks.known("proposal", self.kind, KINDS)
        checks.count("num_corruptions", self.num_corruptions, minimum=2 if self.kind == "mixture" else 1)
        if checks.number("defensive", self.defensive, 0.0, 1.0) == 1.0:
            raise InputError("defensive: expected a share below 1, got 1")
        checks.scale_factor("widen", self.widen)

    @property
    def strata(self) -> int:
        """The number of components among which the draws are divided equally."""
        return self.num_corruptions if self.kind == "mixture" else 1

    def __str__(self) -> str:
        parts = [f"mixture of {self.num_corruptions}" if self.kind == "mixture" else self.kind]
        if self.widen != 1:
            parts.append(f"widened by {self.widen:g}")
        if self.defensive:
            parts.append(f"{self.defensive:.2g} of the draws from the prior")
        return ", ".join(parts)


@dataclass(frozen=True)
class Pass:
    """One vectorised run over some rows: ``per_stratum`` draws of each component and ``from_prior`` more.

    :param nesting: number of dimensions of the user's plates.
    :param noisy: whether the guide has auxiliary sites that are random even on clean input.
    """

    proposal: Proposal
    per_stratum: int
    from_prior: int
    nesting: int | float
    noisy: bool = False

    @property
    def num_draws(self) -> int:
        """The draws of each observation."""
        return self.proposal.strata * self.per_stratum + self.from_prior

    def log_weights(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Return log p(x, z) − log q(z) of each draw, shape [draws, N] (nats).

        The components of a mixture alternate; draws from the prior come last.
        """
        kind, pair = self.proposal.kind, Pair(model, widened(guide, self.proposal.widen), args, kwargs)
        layout = self._layout(self.per_stratum)
        with clean_input() if kind == "clean" else nullcontext():
            with naming_draws(pair, layout):
                draws = by_rows(draw(pair.model, pair.guide, args, kwargs, layout), len(args[0]))
            if kind == "mixture":
                log_q = log_mean_exp(mixture_density(draws).values, (0,))
            else:
                log_q = -draws.density(draws.guide_terms())
            parts = [self._weights(draws, log_q)]
            if self.from_prior:
                others = by_rows(draw_from_prior(pair, self._prior_layout()), len(args[0]))
                if kind == "mixture":
                    given = given_corruptions(draws, others.layout)
                    log_q = density_of_others(draws, others, given, self.proposal.num_corruptions)
                else:
                    log_q = density_of_others(draws, others)
                parts.append(self._weights(others, log_mean_exp(log_q, (0,))))
        return torch.cat([part.reshape(part.shape[0] * part.shape[1], -1) for part in parts])

    def split(self, log_weight: Tensor) -> list[Tensor]:
        """Split log weights [passes, draws, N] into parts [strata, per stratum, N] of like draws."""
        strata, count = self.proposal.strata, self.per_stratum
        passes, _, data = log_weight.shape
        own = log_weight[:, : strata * count].reshape(passes, count, strata, data)
        if strata == 1:
            parts = [own.reshape(1, passes * count, data)]
        elif count > 1:
            parts = [own.transpose(1, 2).reshape(passes * strata, count, data)]
        else:  # a single draw has no variance: ignore the differences between components
            parts = [own.reshape(1, passes * strata, data)]
        if self.from_prior:
            parts.append(log_weight[:, strata * count :].reshape(1, -1, data))
        return parts

    def _weights(self, draws: Draws, log_q: Tensor) -> Tensor:
        joint = draws.density(draws.model_terms())
        if not self.from_prior:
            return joint - log_q
        share = self.from_prior / self.num_draws
        latents = [term for term in draws.model_terms() if not term.site["is_observed"]]
        prior = draws.density(latents)
        return joint - torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + prior)

    @property
    def _independent(self) -> bool:
        """Whether each draw has its own auxiliary draws; only clean input is shared and encoded once."""
        # If draws shared noise, their weights would have a common error in a mixture with the prior.
        return self.proposal.kind == "corrupted" or (self.proposal.kind == "clean" and self.noisy)

    def _layout(self, count: int) -> Layout:
        if self._independent:
            return Layout(count, 1, self.nesting)
        return Layout(self.proposal.strata, count, self.nesting)

    def _prior_layout(self) -> Layout:
        if self._independent:
            return Layout(self.from_prior, 1, self.nesting)
        return Layout(1, self.from_prior, self.nesting)
