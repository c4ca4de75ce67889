"""The log-densities at both ends of an annealing path, as functions of one latent vector per chain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.evaluation.annealing.scoring import FixedSites, GivenScores, UnconstrainedScores, total
from pyro_dvae.evaluation.annealing.structure import Program, Structure
from pyro_dvae.rows import Arguments
from pyro_dvae.sites import clean_input


@dataclass(frozen=True)
class Packing:
    """Packs the unconstrained latents into one vector [C, N, D] and unpacks them.

    :param shapes: of each latent, [*plates, *event] with the data plate moved to the front, without chains.
    :param dtypes: of each latent.
    :param data_position: dimension of the data plate in an unpacked latent, counted from the left.
    """

    shapes: dict[str, torch.Size]
    dtypes: dict[str, torch.dtype]
    data_position: int

    @classmethod
    def of(cls, points: Mapping[str, Tensor], data_position: int) -> Packing:
        """Return the packing of latents [C, *plates, *event]."""
        front = {name: point.movedim(data_position, 1) for name, point in points.items()}
        return cls(
            {name: point.shape[1:] for name, point in front.items()},
            {name: point.dtype for name, point in points.items()},
            data_position,
        )

    def pack(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return all latents as [C, N, D], where D is the unconstrained size of the latents of a row."""
        front = [points[name].movedim(self.data_position, 1) for name in self.shapes]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in front], -1)

    def unpack(self, position: Tensor) -> dict[str, Tensor]:
        """Return the latents in ``position`` [C, N, D] by name."""
        sizes = [math.prod(shape[1:]) for shape in self.shapes.values()]
        points = {}
        for (name, shape), part in zip(self.shapes.items(), position.split(sizes, -1), strict=True):
            point = part.reshape(position.shape[0], *shape).movedim(1, self.data_position)
            points[name] = point.to(self.dtypes[name])
        return points


class _AnyRows(Messenger):
    """Lets a plate have more rows than its size, because a chunk may repeat rows of a small data set."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if site_is_subsample(msg) and msg["value"] is None and 0 < fn.size < (fn.subsample_size or 0):
            msg["value"], msg["done"] = torch.arange(fn.subsample_size) % fn.size, True


@dataclass(frozen=True)
class AnnealedPrograms:
    """The programs and data that define the densities of a batch.

    :param model: Pyro model.
    :param guide: Pyro guide if the path starts at it, or None if it starts at the prior.
    :param given: the data and all other arguments of model and guide.
    :param structure: of the model.
    :param held: fixed values of sites: subsampled rows, auxiliary draws of the guide.
    """

    model: Program
    guide: Program | None
    given: Arguments
    structure: Structure
    held: Mapping[str, Tensor]

    @property
    def x(self) -> Tensor:
        """The data, shape [N, ...]."""
        return self.given.x

    def run(self, program: Program, *handlers: Any) -> None:
        """Run a program on the data under handlers (the first is outermost), hidden from outer ones."""
        inner: list[Any] = [_AnyRows(), *([FixedSites(self.held)] if self.held else [])]
        if program is self.guide:
            inner.append(clean_input())
        with ExitStack() as stack:
            for handler in (poutine.block(), *handlers, *inner):
                stack.enter_context(handler)
            self.given.call(program)


@dataclass(frozen=True)
class ChainState:
    """A state of the chains with its densities and gradients; log f_β = base + β · increment (nats).

    :param position: unconstrained latents, [C, N, D].
    :param base: log p_0(z) + log |∂z/∂u|, [C, N], float64.
    :param increment: log p(x, z) − log p_0(z), [C, N], float64.
    :param base_gradient: gradient of ``base``, [C, N, D].
    :param increment_gradient: gradient of ``increment``, [C, N, D].
    """

    position: Tensor
    base: Tensor
    increment: Tensor
    base_gradient: Tensor
    increment_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        """Return log f_β, [C, N] (nats); β > 0."""
        return self.base + beta * self.increment

    def gradient(self, beta: float) -> Tensor:
        """Return the gradient of log f_β, [C, N, D], for any β without another run."""
        return self.base_gradient + beta * self.increment_gradient

    def where(self, chosen: Tensor, other: ChainState) -> ChainState:
        """Return this point where ``chosen`` [C, N] is true, and ``other`` elsewhere."""
        each = chosen.unsqueeze(-1)
        return ChainState(
            torch.where(each, self.position, other.position),
            torch.where(chosen, self.base, other.base),
            torch.where(chosen, self.increment, other.increment),
            torch.where(each, self.base_gradient, other.base_gradient),
            torch.where(each, self.increment_gradient, other.increment_gradient),
        )


@dataclass(frozen=True)
class Density:
    """The densities of a path as functions of the unconstrained latents."""

    programs: AnnealedPrograms
    packing: Packing

    def __call__(self, position: Tensor) -> ChainState:
        """Evaluate both log-densities and their gradients at ``position`` [C, N, D].

        It runs the model (and guide) once and computes no gradients of parameters. Two gradients cost about
        as much as one: if the path starts at the prior, log p(z) and log p(x|z) share no graph.
        """
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            base, increment = self.log_densities(leaf)
            increment_gradient = _gradient(increment, leaf, retain=True)
            base_gradient = _gradient(base, leaf, retain=False)
        return ChainState(leaf.detach(), base.detach(), increment.detach(), base_gradient, increment_gradient)

    def log_densities(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``base`` and ``increment`` of :class:`ChainState` with their graphs.

        Both are summed over the values of discrete latents.
        """
        programs, structure = self.programs, self.programs.structure
        latents, observed, scores, discrete = self._scored(position)
        if programs.guide is None and not discrete:
            return latents[0], observed[0]
        if programs.guide is None:
            base = _summed(latents)
        else:
            guide = GivenScores(structure, scores.values | discrete)
            programs.run(programs.guide, guide)
            count = structure.combinations
            start = total(guide.latents, position, count) + total(scores.jacobian, position, count)
            base = _summed(start) - structure.log_repeats
        return base, _summed(latents + observed) - base

    def by_combination(self, position: Tensor) -> Tensor:
        """Return log p(x, z, y) + log |∂z/∂u| for all combinations y of the discrete latents, [K, C, N]."""
        latents, observed, *_ = self._scored(position)
        return latents + observed

    def _scored(self, position: Tensor) -> tuple[Tensor, Tensor, UnconstrainedScores, dict[str, Tensor]]:
        """Return log p(z, y) + log |∂z/∂u| and log p(x | z, y), each [K, C, N], and the placed latents."""
        programs, structure = self.programs, self.programs.structure
        count, (chains, rows, _) = structure.combinations, position.shape
        points = self.packing.unpack(position)
        discrete: dict[str, Tensor] = {}
        if structure.discrete:
            points = {name: torch.cat([point] * count) for name, point in points.items()}
            index = torch.arange(count).repeat_interleave(chains)
            discrete = structure.placed(index[:, None].expand(-1, rows))
        scores = UnconstrainedScores(structure, points)
        programs.run(programs.model, scores, *([FixedSites(discrete)] if discrete else []))
        jacobian, latents, observed = (
            total(each, position, count) for each in (scores.jacobian, scores.latents, scores.observed)
        )
        return latents + jacobian, observed, scores, discrete


def _summed(by_combination: Tensor) -> Tensor:
    """Sum densities [K, C, N] over the values of discrete latents."""
    return by_combination[0] if len(by_combination) == 1 else by_combination.logsumexp(0)


def _gradient(value: Tensor, leaf: Tensor, retain: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(value.sum(), leaf, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found
