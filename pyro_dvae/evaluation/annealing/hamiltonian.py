"""Hamiltonian Monte Carlo transitions that leave an annealed density invariant, for all chains at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import Point

# Step sizes vary by this fraction from one transition to the next, or an orbit could close on itself and
# hold a chain where it is (Neal 2011, "MCMC using Hamiltonian dynamics", section 3.2).
_JITTER = 0.1


def leapfrog(
    density: Callable[[Tensor], Point], start: Point, momentum: Tensor, step: Tensor, beta: float, count: int
) -> tuple[Point, Tensor]:
    """Follow H(u, p) = −log f_β(u) + |p|²/2 for ``count`` leapfrog steps: volume-preserving and reversible.

    The half steps of the momentum between positions are joined, and the gradient at the start is known, so
    each step costs one evaluation.

    :param momentum: [C, N, D].
    :param step: step sizes, broadcast with the momentum.
    :returns: the last point and its momentum.
    """
    point = start
    momentum = momentum + 0.5 * step * point.gradient(beta)
    for index in range(count):
        point = density(point.position + step * momentum)
        momentum = momentum + (step if index < count - 1 else 0.5 * step) * point.gradient(beta)
    return point, momentum


def transition(
    density: Callable[[Tensor], Point], point: Point, step_sizes: Tensor, beta: float, count: int
) -> tuple[Point, Tensor]:
    """Move each chain by one HMC transition with a fresh momentum and a Metropolis correction.

    The kernel is reversible with respect to f_β for step sizes that do not depend on the point.

    :param step_sizes: of each datum, [N], float64.
    :param beta: inverse temperature, above 0.
    :param count: leapfrog steps.
    :returns: the next point and the probability of acceptance, [C, N], float64.
    """
    position = point.position
    momentum = torch.randn_like(position)
    spread = 1 + _JITTER * (2 * torch.rand_like(position[..., :1]) - 1)
    proposal, last = leapfrog(
        density, point, momentum, step_sizes.to(position)[:, None] * spread, beta, count
    )
    log_ratio = proposal.log_density(beta) - _kinetic(last) - (point.log_density(beta) - _kinetic(momentum))
    # NaN: a trajectory that left for infinity, or one from a point without density.
    log_ratio = log_ratio.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    accepted = torch.rand_like(log_ratio).log() < log_ratio
    return proposal.where(accepted, point), log_ratio.clamp(max=0).exp()


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(-1)
