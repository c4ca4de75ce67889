"""One vectorised run of guide and model over M corruptions and K latent draws of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_dvae.bounds.plates import CORRUPTIONS, DRAW_PLATES, PARTICLES, DrawPlate, Subsamples, is_auxiliary
from pyro_dvae.errors import InputError

Program = Callable[..., Any]


@dataclass(frozen=True)
class Pair:
    """A model and a guide with the arguments they are called with."""

    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How many draws there are, and on which dimensions (negative; 0 where there is a single draw)."""

    num_corruptions: int
    num_particles: int
    max_plate_nesting: int | float

    @property
    def corruption_dim(self) -> int:
        """The dimension of the M corruptions, next to the user's plates."""
        return -int(self.max_plate_nesting) - 1 if self.num_corruptions > 1 else 0

    @property
    def particle_dim(self) -> int:
        """The dimension of the K latents, left of the corruptions'."""
        if self.num_particles == 1:
            return 0
        return -int(self.max_plate_nesting) - 1 - (self.num_corruptions > 1)

    @property
    def nesting(self) -> int | float:
        """The number of plate dimensions in all, draws included."""
        return self.max_plate_nesting + (self.num_corruptions > 1) + (self.num_particles > 1)

    def wrap(self, program: Program, redrawn: bool = False) -> Program:
        """Put ``program`` into the plates of draws; where corruptions are redrawn, M is for latents only."""
        if self.num_corruptions > 1:
            program = DrawPlate(CORRUPTIONS, self.num_corruptions, self.corruption_dim, redrawn)(program)
        if self.num_particles > 1:
            program = DrawPlate(PARTICLES, self.num_particles, self.particle_dim, True)(program)
        return program

    def per_datum(self, value: Tensor, frames: list[CondIndepStackFrame], lead: int = 0) -> Tensor:
        """Sum a site's value [*lead, K, M, *plates] to [*lead, K, M, *datum].

        ``lead`` counts further dimensions of draws left of all others. A dimension that the value does not
        have comes out with size 1.
        """
        wanted = {frame.dim for frame in frames}
        span = max((-frame.dim for frame in frames), default=0)
        draws = [self.particle_dim, self.corruption_dim]
        if lead:
            draws = [-int(self.nesting) - 1, *draws]
        keep = {dim for dim in draws if dim}
        width = max([-dim for dim in keep] + [span, value.dim()])
        full = value.reshape((1,) * (width - value.dim()) + value.shape)
        summed = [dim for dim in range(-width, 0) if dim not in wanted and dim not in keep]
        full = full.sum(summed, keepdim=True) if summed else full
        datum_shape = full.shape[width - span :] if span else torch.Size()
        return full.reshape(*[full.shape[dim] if dim else 1 for dim in draws], *datum_shape)


@dataclass(frozen=True)
class Term:
    """A site's part of log p(x, z) − log q(z|x̃): its value with a sign, before scale and mask."""

    site: dict[str, Any]
    sign: float
    value: Tensor


@dataclass(frozen=True)
class LogWeight:
    """Log importance weights of the draws, per datum.

    :param values: log p(x, z) − log q(z|x̃), shape [K, M, *datum] (nats), without the scale of the plates.
    :param scale: factor of each datum's bound (plate subsampling, ``poutine.scale``), a number or [*datum].
    """

    values: Tensor
    scale: float | Tensor


@dataclass(frozen=True)
class Draws:
    """The traces of one run, and where its draws lie.

    :param model_trace: model sites; log-probabilities of shape [K, M, *plates].
    :param guide_trace: guide sites; latents as the model's, auxiliary sites [M, *plates].
    :param layout: M, K and their dimensions.
    :param subsamples: the subsample statements of the plates.
    :param pair: what was run, for further runs on the same draws.
    """

    model_trace: Trace
    guide_trace: Trace
    layout: Layout
    subsamples: Subsamples
    pair: Pair

    def model_sites(self) -> list[dict[str, Any]]:
        """Return the sample sites of the model: latents and observations."""
        return [site for site in self.model_trace.nodes.values() if site["type"] == "sample"]

    def latent_sites(self) -> list[dict[str, Any]]:
        """Return the guide's sites of the model's latents."""
        return [s for s in self.guide_trace.nodes.values() if s["type"] == "sample" and not is_auxiliary(s)]

    def auxiliary_sites(self) -> list[dict[str, Any]]:
        """Return the guide's corruption and other auxiliary sites."""
        return [s for s in self.guide_trace.nodes.values() if s["type"] == "sample" and is_auxiliary(s)]

    def datum_frames(self) -> list[CondIndepStackFrame]:
        """Return the plates that all scored sites share: what a datum, and so one weight, is."""
        stacks = [
            frozenset(f for f in site["cond_indep_stack"] if f.vectorized and f.name not in DRAW_PLATES)
            for site in [*self.model_sites(), *self.latent_sites()]
        ]
        common = frozenset.intersection(*stacks) if stacks else frozenset()
        return sorted(common, key=lambda frame: frame.dim)

    def model_terms(self) -> list[Term]:
        """Return log p of every model site."""
        return [Term(site, 1.0, site["unscaled_log_prob"]) for site in self.model_sites()]

    def guide_terms(self) -> list[Term]:
        """Return −log q of every latent."""
        return [Term(site, -1.0, site["unscaled_log_prob"]) for site in self.latent_sites()]

    def log_weight(self, terms: list[Term] | None = None) -> LogWeight:
        """Return the sum of the terms, by default log p − log q, per draw and datum, and the outer scale."""
        terms = [*self.model_terms(), *self.guide_terms()] if terms is None else terms
        if not terms:
            raise InputError("model: expected at least one sample site, got none")
        outer, inner = self._scales(terms)
        return LogWeight(self._sum(terms, inner), outer)

    def joint(self) -> tuple[LogWeight, float | Tensor]:
        """Return log p(x, z) per draw and datum, and the factor that log q takes inside the weight (often 1).

        :raises InputError: the latents of the guide have different scales, so their joint density has none.
        """
        model, guide = self.model_terms(), self.guide_terms()
        factors = self._scales([*model, *guide])[1][len(model) :] or [1.0]
        if not all(_same(factor, factors[0]) for factor in factors):
            raise InputError("guide: expected one scale for all latents (poutine.scale), got several")
        return self.log_joint(), factors[0]

    def log_joint(self) -> LogWeight:
        """Return log p(x, z) per draw and datum, with the scales that it has in :meth:`log_weight`."""
        model = self.model_terms()
        outer, inner = self._scales([*model, *self.guide_terms()])
        return LogWeight(self._sum(model, inner[: len(model)]), outer)

    def density(self, terms: list[Term]) -> Tensor:
        """Return the sum of the terms per draw and datum [K, M, *datum] (nats), with masks, without scales.

        :raises InputError: a plate inside a datum is subsampled, so that its density is not all there.
        """
        if name := self.subsamples.inside(self.datum_frames()):
            raise InputError(
                f"model: plate {name!r} inside a datum is subsampled; a likelihood needs all of it"
            )
        return self._sum(terms, [1.0] * len(terms))

    def _sum(self, terms: list[Term], scales: list[float | Tensor]) -> Tensor:
        frames = self.datum_frames()
        parts = [
            term.sign * self.layout.per_datum(scale_and_mask(term.value, scale, term.site["mask"]), frames)
            for term, scale in zip(terms, scales, strict=True)
        ]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def _scales(self, terms: list[Term]) -> tuple[float | Tensor, list[float | Tensor]]:
        """Split the sites' scales into the common factor, which stays outside the weights, and the rest."""
        frames = self.datum_frames()
        found = [term.site["scale"] for term in terms]
        if all(_same(scale, found[0]) for scale in found):
            return found[0], [1.0] * len(found)
        outer = 1.0
        for frame in frames:
            outer *= self.subsamples.scale(frame.name)
        return outer, [scale / outer for scale in found]


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)


def draw(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], layout: Layout
) -> Draws:
    """Run the guide, then the model on its latents, once, over M corruptions × K latents.

    The nesting of the user's plates may be infinite (unknown) for M = K = 1, where no dimension is added.
    """
    with Subsamples() as subsamples:
        model_trace, guide_trace = get_importance_trace(
            "flat", layout.nesting, layout.wrap(model), layout.wrap(guide), args, kwargs
        )
    draws = Draws(model_trace, guide_trace, layout, subsamples, Pair(model, guide, args, kwargs))
    _check(draws)
    return draws


def draw_from_prior(pair: Pair, layout: Layout) -> Draws:
    """Run the model alone, once: its latents are drawn from the prior and stand for those of a guide."""
    with Subsamples() as subsamples:
        trace = poutine.trace(layout.wrap(pair.model)).get_trace(*pair.args, **pair.kwargs)
    model_trace = poutine.util.prune_subsample_sites(trace)
    model_trace.compute_log_prob()
    latents = Trace()
    for site in model_trace.nodes.values():
        if site["type"] == "sample" and not site["is_observed"]:
            latents.add_node(site["name"], **site)
    return Draws(model_trace, latents, layout, subsamples, pair)


def _check(draws: Draws) -> None:
    """Refuse pairs of a model and a guide that no bound of this package is right for."""
    latents = {site["name"] for site in draws.model_sites() if not site["is_observed"]}
    sampled = {site["name"] for site in draws.latent_sites()}
    if extra := sorted(sampled - latents):
        raise InputError(
            f"guide: site {extra[0]!r} is not a latent of the model; sample corruptions with "
            "pyro_dvae.corrupt, mark other such sites infer={'is_auxiliary': True}"
        )
    if missing := sorted(latents - sampled):
        raise InputError(f"guide: the model's latent {missing[0]!r} is not sampled in the guide")
    for site in [*draws.latent_sites(), *draws.auxiliary_sites()]:
        if site["infer"].get("enumerate"):
            raise InputError(
                f"guide: site {site['name']!r} asks for enumeration, which the denoising bounds do not do; "
                "use pyro.infer.TraceEnum_ELBO or remove infer={'enumerate': ...}"
            )
