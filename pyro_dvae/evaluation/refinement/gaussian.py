"""A Gaussian over the unconstrained latents of each row: its start, density, draws and optimization."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.distributions as tdist
from pyro import poutine
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import AnnealedPrograms
from pyro_dvae.evaluation.annealing.scoring import ChainPlate
from pyro_dvae.evaluation.annealing.structure import Program
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.rows import Arguments
from pyro_dvae.sites import layers

_MOMENT_DRAWS = 64  # for guides that are not Gaussian in unconstrained coordinates
_LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class Gaussians:
    """u = loc + diag(exp(log_scale)) (I + lower) ε, ε ~ N(0, I), with separate parameters for each row.

    :param loc: [N, D].
    :param log_scale: [N, D].
    :param lower: [N, D, D], used below the diagonal; None if the covariance is diagonal.
    """

    loc: Tensor
    log_scale: Tensor
    lower: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Gaussians:
        """Return the Gaussians of some rows."""
        lower = None if self.lower is None else self.lower[rows]
        return Gaussians(self.loc[rows], self.log_scale[rows], lower)

    def __len__(self) -> int:
        return len(self.loc)

    def parameters(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return loc, log-scale and the lower part."""
        return self.loc, self.log_scale, self.lower

    def full(self) -> Gaussians:
        """Return the same distributions with a full covariance."""
        if self.lower is not None:
            return self
        size = self.loc.shape[1]
        return replace(self, lower=self.loc.new_zeros(len(self), size, size))

    def widened(self, factor: float) -> Gaussians:
        """Return the same distributions with ``factor`` times the scale."""
        return replace(self, log_scale=self.log_scale + math.log(factor))

    def standardised(self, noise: Tensor) -> Tensor:
        """Return (I + lower) ``noise`` for ``noise`` [S, N, D]."""
        return noise if self.lower is None else torch.einsum("nij,snj->sni", self._factor, noise)

    def place(self, noise: Tensor) -> Tensor:
        """Return the points of ``noise`` [S, N, D]."""
        return torch.addcmul(self.loc, self.log_scale.exp(), self.standardised(noise))

    def draw_noise(self, count: int) -> Tensor:
        """Return the noise of ``count`` draws of each row, [count, N, D]."""
        return torch.randn(count, *self.loc.shape).to(self.loc)

    def noise_of(self, position: Tensor) -> Tensor:
        """Return the noise that gives ``position`` [S, N, D], float64."""
        noise = ((position - self.loc) / self.log_scale.exp()).double()
        return noise if self.lower is None else _solved(self._factor.double(), noise, upper=False)

    def log_prob(self, noise: Tensor) -> Tensor:
        """Return the log-density at the points of ``noise`` [S, N, D], [S, N], float64 (nats)."""
        squares = torch.einsum("snd,snd->sn", noise, noise).double()
        normal = -0.5 * (squares + noise.shape[-1] * math.log(2 * math.pi))
        return normal - self.log_scale.double().sum(-1)

    def slope(self, noise: Tensor) -> Tensor:
        """Return the gradient of the log-density with respect to the points of ``noise``, [S, N, D]."""
        if self.lower is not None:
            noise = _solved(self._factor.mT.to(noise), noise, upper=True)
        return (-noise / self.log_scale.exp()).to(self.loc)

    def covariance(self) -> Tensor:
        """Return the covariances, [N, D, D]."""
        factor = self.log_scale.exp().diag_embed()
        if self.lower is not None:
            factor = factor @ self._factor
        return factor @ factor.mT

    @cached_property
    def _factor(self) -> Tensor:
        assert self.lower is not None
        return self.lower.tril(-1) + torch.eye(self.loc.shape[1]).to(self.loc)


def _solved(factor: Tensor, noise: Tensor, upper: bool) -> Tensor:
    """Solve with a triangular ``factor`` [N, D, D] of each row for ``noise`` [S, N, D]."""
    return torch.linalg.solve_triangular(factor, noise.permute(1, 2, 0), upper=upper).permute(2, 0, 1)


def encoded(targets: Targets, guide: Program, rows: Arguments) -> Gaussians:
    """Return the encoder's proposal on clean input as a Gaussian with a diagonal covariance.

    Location and scale are those of the guide's Normal if that is the only latent and unconstrained. Otherwise
    they are the mean and standard deviation of 64 draws of the guide in unconstrained coordinates.
    """
    tracer = poutine.trace()
    chains = ChainPlate(_MOMENT_DRAWS, targets.structure.chain_dim)
    AnnealedPrograms(targets.model, guide, rows, targets.structure, {}).run(guide, tracer, chains)
    sites = {name: tracer.trace.nodes[name] for name in targets.structure.latents}
    draws = targets.pack({name: site["value"] for name, site in sites.items()}, rows)
    loc, scale = draws.mean(0), draws.std(0)
    if len(sites) == 1 and not targets.structure.in_guide:
        ((name, site),) = sites.items()
        moments = _normal(site["fn"])
        if moments is not None and torch.equal(targets.unpacked(draws)[name], site["value"]):
            full = [moment.expand_as(site["value"]) for moment in moments]
            loc, scale = (targets.packed({name: moment}).mean(0) for moment in full)
    return Gaussians(loc.contiguous(), scale.clamp(min=_LEAST_SCALE).log().contiguous())


def _normal(distribution: tdist.Distribution) -> tuple[Tensor, Tensor] | None:
    """Return mean and standard deviation of independent normals, or None for anything else."""
    inner = layers(distribution)
    if any(isinstance(each, tdist.TransformedDistribution) for each in inner):
        return None
    if not isinstance(inner[-1], tdist.Normal):
        return None
    return distribution.mean, distribution.stddev


_DECAYS = (0.9, 0.999)
_EPSILON = 1e-3  # nats per unit: Adam would turn rounding errors of converged rows into full steps


def climbed(
    targets: Targets, rows: Arguments, start: Gaussians, family: str, settings: Refinement
) -> Gaussians:
    """Maximize L_n(λ) = E_{q_λ}[log p(x_n, z) − log q_λ(z)] for all rows at once, by Adam.

    The gradient is that of log p − log q through u = u(ε, λ) alone: "sticking the landing" (Roeder, Wu and
    Duvenaud 2017), which has no variance if q is the posterior. Adam works elementwise, so rows do not
    affect each other. A non-finite gradient counts as 0.
    """
    start, steps = start.full() if family == "full" else start, steps_of(family, settings)
    leaves = [each.clone() for each in start.parameters() if each is not None]
    first = [torch.zeros_like(leaf) for leaf in leaves]
    second = [torch.zeros_like(leaf) for leaf in leaves]
    for step in range(1, steps + 1):
        slopes = _slopes(targets, rows, Gaussians(*leaves), settings.num_draws)
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        corrections = [1 - decay**step for decay in _DECAYS]
        for leaf, slope, mean, square in zip(leaves, slopes, first, second, strict=True):
            slope = slope.nan_to_num(0.0, 0.0, 0.0)
            mean.lerp_(slope, 1 - _DECAYS[0])
            square.lerp_(slope.square(), 1 - _DECAYS[1])
            leaf.add_(mean / corrections[0] / ((square / corrections[1]).sqrt() + _EPSILON), alpha=rate)
    return Gaussians(*leaves)


def steps_of(family: str, settings: Refinement) -> int:
    """Return the Adam steps of a climb."""
    return 2 * settings.num_steps if family == "full" else settings.num_steps


def arrived(before: Gaussians, after: Gaussians, family: str, settings: Refinement) -> Tensor:
    """Return whether a row used less than half of the way that a climb can go in each coordinate, [N]."""
    reach = settings.learning_rate * steps_of(family, settings) / 2
    ways = torch.stack([after.loc - before.loc, after.log_scale - before.log_scale]).abs()
    return ways.amax((0, 2)) < reach / 2


def _slopes(targets: Targets, rows: Arguments, at: Gaussians, draws: int) -> list[Tensor]:
    """Return the estimated gradient of the bound in each parameter: the chain rule of u(ε, λ) by hand."""
    noise = at.draw_noise(draws)
    scale = at.log_scale.exp()
    spread = scale * at.standardised(noise)
    _, slope = targets.gradient(at.loc + spread, rows)
    slope = slope - at.slope(noise)
    found = [slope.mean(0), (slope * spread).mean(0)]
    if at.lower is not None:
        found.append(torch.einsum("sni,snj->nij", slope * (scale / draws), noise).tril(-1))
    return found
