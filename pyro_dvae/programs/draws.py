"""The draws of one run of guide and model over M corruptions and K latents, and their densities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.internals import tree_flatten
from pyro_dvae.programs.leaves import Leaf
from pyro_dvae.programs.plates import (
    Layout,
    Program,
    Subsamples,
    data_frames,
    draws_of,
    is_deterministic,
    varies_over_draws,
)
from pyro_dvae.sites import is_uncounted


@dataclass(frozen=True)
class Pair:
    """A model and a guide with the arguments they are called with."""

    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def kind(self) -> tuple[Any, ...]:
        """The arguments' structure, flags, texts and types, on which most programs branch.

        Sizes of tensors and numbers are left out, because they may differ in every call.
        """
        leaves, structure = tree_flatten((self.args, self.kwargs))
        names = [each for each in (*self.args, *self.kwargs.values()) if isinstance(each, str)]
        return structure, names, [_kind(leaf) for leaf in leaves]


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.dim(), leaf.dtype
    return leaf if isinstance(leaf, bool) else type(leaf)


@dataclass(frozen=True)
class Term:
    """A site's part of log p(x, z) − log q(z|x̃): its value with a sign, before scale and mask."""

    site: dict[str, Any]
    sign: float
    value: Tensor


@dataclass(frozen=True)
class LogWeight:
    """Log importance weights of the draws, per observation.

    :param values: log p(x, z) − log q(z|x̃), shape [K, M, *datum] (nats), without the scale of the plates.
    :param scale: factor of each observation's bound (plate subsampling, ``poutine.scale``), a number or
        [*datum].
    :param rest: the sum of terms that are equal in all draws and belong to no observation (scaled, nats).
    """

    values: Tensor
    scale: float | Tensor
    rest: float | Tensor = 0.0


@dataclass(frozen=True)
class Draws:
    """The traces of one run, and the dimensions of its draws.

    :param model_trace: model sites; log-probabilities of shape [K, M, *plates].
    :param guide_trace: guide sites; latents like the model's, uncounted sites [M, *plates].
    :param layout: M, K and their dimensions.
    :param subsamples: the subsample statements of the plates.
    :param pair: the programs and their arguments, for further runs on the same draws.
    :param leaves: the reparameterised draws of the guide that were replaced with leaves of the autograd graph
        (see
        :class:`~pyro_dvae.programs.leaves.Leaves`).
    :param runs: the single runs, corruption by corruption, if the draws were made in a loop.
    :param frames: for one of several single runs, the plates of an observation common to all of them.
    """

    model_trace: Trace
    guide_trace: Trace
    layout: Layout
    subsamples: Subsamples
    pair: Pair
    leaves: tuple[Leaf, ...] = ()
    runs: tuple[Draws, ...] = ()
    frames: list[CondIndepStackFrame] | None = None

    def model_sites(self) -> list[dict[str, Any]]:
        """Return the sample sites of the model: latents and observations."""
        return [site for site in self.model_trace.nodes.values() if site["type"] == "sample"]

    def counted_sites(self) -> list[dict[str, Any]]:
        """Return the guide's sites whose density counts: latents, and sites that Pyro calls auxiliary."""
        return [s for s in self.guide_trace.nodes.values() if s["type"] == "sample" and not is_uncounted(s)]

    def latent_sites(self) -> list[dict[str, Any]]:
        """Return the guide's sites that are latents of the model."""
        latents = {site["name"] for site in self.model_sites() if not site["is_observed"]}
        return [site for site in self.counted_sites() if site["name"] in latents]

    def auxiliary_sites(self) -> list[dict[str, Any]]:
        """Return the guide's uncounted sites: corruptions, and other noise that it integrates over."""
        return [s for s in self.guide_trace.nodes.values() if s["type"] == "sample" and is_uncounted(s)]

    def datum_frames(self) -> list[CondIndepStackFrame]:
        """Return the plates around all sites that differ between draws; they define an observation."""
        return self._frames

    @cached_property
    def _frames(self) -> list[CondIndepStackFrame]:
        if self.frames is not None:
            return self.frames
        sites = [site for site in [*self.model_sites(), *self.counted_sites()] if not is_deterministic(site)]
        varying = [site for site in sites if varies_over_draws(site)]
        stacks = [frozenset(data_frames(site)) for site in varying or sites]
        common = frozenset.intersection(*stacks) if stacks else frozenset()
        return sorted(common, key=lambda frame: frame.dim)

    def model_terms(self) -> list[Term]:
        """Return log p of every model site."""
        return [Term(site, 1.0, site["unscaled_log_prob"]) for site in self.model_sites()]

    def guide_terms(self) -> list[Term]:
        """Return −log q of every counted site."""
        return [Term(site, -1.0, site["unscaled_log_prob"]) for site in self.counted_sites()]

    def log_weight(self, terms: list[Term] | None = None) -> LogWeight:
        """Return the sum of terms (default: log p − log q) per draw and observation, and the outer scale."""
        terms = [*self.model_terms(), *self.guide_terms()] if terms is None else terms
        outer, inner = self._scales(terms)
        return LogWeight(self._sum(terms, inner), outer, self.rest(terms))

    def part(self, terms: list[Term]) -> Tensor:
        """Return the sum of some terms per draw and observation, with the scales of :meth:`log_weight`."""
        whole = [*self.model_terms(), *self.guide_terms()]
        _, inner = self._scales(whole)
        scales = {(term.site["name"], term.sign): scale for term, scale in zip(whole, inner, strict=True)}
        return self._sum(terms, [scales[term.site["name"], term.sign] for term in terms])

    def joint(self) -> tuple[LogWeight, float | Tensor]:
        """Return log p(x, z) per draw and observation, and the factor of log q in the weight (often 1).

        :raises InputError: the latents of the guide have different scales, so their joint density has none.
        """
        model, guide = self.model_terms(), [term for term in self.guide_terms() if self.is_within(term.site)]
        factors = self._scales([*model, *guide])[1][len(model) :] or [1.0]
        if not all(same(factor, factors[0]) for factor in factors):
            raise InputError("guide: expected one scale for all latents (poutine.scale), got several")
        return self.log_joint(), factors[0]

    def log_joint(self) -> LogWeight:
        """Return log p(x, z) per draw and observation, scaled as in :meth:`log_weight`."""
        model = self.model_terms()
        outer, inner = self._scales([*model, *self.guide_terms()])
        rest = self.rest([*model, *self.guide_terms()])
        return LogWeight(self._sum(model, inner[: len(model)]), outer, rest)

    def density(self, terms: list[Term]) -> Tensor:
        """Return the sum of the terms per draw and observation [K, M, *datum] (nats), masked but not scaled.

        :raises InputError: a plate inside an observation is subsampled, so that its density is incomplete.
        """
        if name := self.subsamples.inside(self.datum_frames()):
            raise InputError(
                f"model: plate {name!r} inside an observation is subsampled; a likelihood needs all of it"
            )
        return self._sum(terms, [1.0] * len(terms))

    def rest(self, terms: list[Term]) -> float | Tensor:
        """Return the scaled sum (nats) of terms that are equal in all draws and belong to no observation.

        A factor that regularises parameters is an example. It would shift all log weights by the same amount,
        so it is added to the bound outside any logarithm.
        """
        total: float | Tensor = 0.0
        for term in terms:
            if not self.is_within(term.site):
                value = scale_and_mask(term.value, term.site["scale"], term.site["mask"])
                total = total + term.sign * value.sum() / draws_of(term.site)
        return total

    def is_within(self, site: dict[str, Any]) -> bool:
        """Whether a site is part of the weight of an observation."""
        if varies_over_draws(site) and not is_deterministic(site):
            return True
        return set(self.datum_frames()) <= set(data_frames(site))

    def _sum(self, terms: list[Term], scales: list[float | Tensor]) -> Tensor:
        frames = self.datum_frames()
        parts = [
            term.sign * self.layout.per_datum(scale_and_mask(term.value, scale, term.site["mask"]), frames)
            for term, scale in zip(terms, scales, strict=True)
            if self.is_within(term.site)
        ]
        if not parts:
            shape = (1, 1) + (1,) * max((-frame.dim for frame in frames), default=0)
            return torch.zeros(shape, device=terms[0].value.device if terms else None)
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def _scales(self, terms: list[Term]) -> tuple[float | Tensor, list[float | Tensor]]:
        """Split the sites' scales into the common factor, which stays outside the weights, and the rest."""
        frames = self.datum_frames()
        found = [term.site["scale"] for term in terms]
        counted = [term for term in terms if self.is_within(term.site) and not is_deterministic(term.site)]
        if not counted:
            return 1.0, [1.0] * len(found)
        first = counted[0].site["scale"]
        if all(same(term.site["scale"], first) for term in counted):
            return first, [1.0] * len(found)
        outer = 1.0
        for frame in frames:
            outer *= self.subsamples.scale(frame.name)
        return outer, [scale / outer for scale in found]


def same(a: Any, b: Any) -> bool:
    """Whether two scales, numbers or tensors, are equal."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)
