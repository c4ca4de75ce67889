"""Hamiltonian transitions that leave each annealed density invariant, and their step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import AnnealedPrograms, ChainState
from pyro_dvae.evaluation.annealing.settings import AnnealingSettings, inverse_temperatures
from pyro_dvae.evaluation.annealing.starts import begin

# Step sizes vary by this fraction between transitions, because a closed orbit would keep a chain in place
# (Neal 2011, "MCMC using Hamiltonian dynamics", section 3.2).
_JITTER = 0.1


def leapfrog(
    density: Callable[[Tensor], ChainState],
    start: ChainState,
    momentum: Tensor,
    step: Tensor,
    beta: float,
    count: int,
) -> tuple[ChainState, Tensor]:
    """Follow H(u, p) = −log f_β(u) + |p|²/2 for ``count`` leapfrog steps: volume-preserving and reversible.

    Half steps of the momentum between positions are merged and the gradient at the start is known, so each
    step costs one evaluation.

    :param momentum: [C, N, D].
    :param step: step sizes, which broadcast with the momentum.
    :returns: the last point and its momentum.
    """
    point = start
    momentum = momentum + 0.5 * step * point.gradient(beta)
    for index in range(count):
        point = density(point.position + step * momentum)
        momentum = momentum + (step if index < count - 1 else 0.5 * step) * point.gradient(beta)
    return point, momentum


def transition(
    density: Callable[[Tensor], ChainState], point: ChainState, step_sizes: Tensor, beta: float, count: int
) -> tuple[ChainState, Tensor]:
    """Move each chain by one HMC transition with a fresh momentum and a Metropolis correction.

    The kernel is reversible with respect to f_β for step sizes that do not depend on the point.

    :param step_sizes: of each observation, [N], float64.
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
    # NaN: the trajectory diverged, or its start has no density.
    log_ratio = log_ratio.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    accepted = torch.rand_like(log_ratio).log() < log_ratio
    return proposal.where(accepted, point), log_ratio.clamp(max=0).exp()


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(-1)


Tick = Callable[[], None]

PILOT_CHAINS = 4
# Transitions at the first temperature, to find the scale, and approximate minimum on the path.
_WARM_UP, _LEAST = 20, 100
_FIRST_STEP = 0.3
# The gain of the adaptation stays above this, because the best step size changes along the path.
_LEAST_GAIN = 0.3
_SMALLEST, _LARGEST = 1e-8, 1e3


@dataclass(frozen=True)
class Kernels:
    """Transition kernels K_1, ..., K_{T−1}, each reversible with respect to its f_β.

    :param betas: inverse temperatures 0 = β_0 < ... < β_T = 1.
    :param step_sizes: of each transition and row, [T − 1, N], float64.
    :param leapfrog_steps: of each transition.
    """

    betas: list[float]
    step_sizes: Tensor
    leapfrog_steps: int

    def apply(
        self, density: Callable[[Tensor], ChainState], point: ChainState, index: int
    ) -> tuple[ChainState, Tensor]:
        """Apply K_index; return the next point and the acceptance [C, N]."""
        sizes = self.step_sizes[index - 1]
        return transition(density, point, sizes, self.betas[index], self.leapfrog_steps)


def pilot_transitions(num_steps: int) -> int:
    """Return the number of transitions of a pilot run."""
    return _WARM_UP + (num_steps - 1) * _repeats(num_steps) if num_steps > 1 else 0


def adapted_kernels(programs: AnnealedPrograms, settings: AnnealingSettings, tick: Tick) -> Kernels:
    """Find a step size for each temperature and row with a few pilot chains, and freeze it.

    As in Wu et al. (2017), log ε grows by gain · (acceptance − target) after every transition, with the mean
    acceptance of all chains of a row. They adapt during annealing, so that a step size depends on the states
    that it moves. Here the pilot chains are discarded: given x, the kernels are fixed before the actual run,
    so exp(log-weight) is exactly unbiased for p(x), and the same kernels serve in reverse.
    """
    return adapted(lambda: begin(programs, PILOT_CHAINS), len(programs.x), settings, tick)


def adapted(
    start: Callable[[], tuple[Callable[[Tensor], ChainState], ChainState]],
    count: int,
    settings: AnnealingSettings,
    tick: Tick,
) -> Kernels:
    """Return the kernels of any path; ``start`` returns its density and the points of the pilot chains.

    :param count: N, the number of observations.
    """
    betas = inverse_temperatures(settings.schedule, settings.num_steps).tolist()
    if settings.num_steps == 1:
        return Kernels(betas, torch.empty(0, count, dtype=torch.float64), settings.leapfrog_steps)
    density, point = start()
    log_size = torch.full((count,), math.log(_FIRST_STEP), dtype=torch.float64, device=point.position.device)
    sizes = []
    done = 0
    for index in range(1, settings.num_steps):
        for _ in range(_repeats(settings.num_steps) + (_WARM_UP if index == 1 else 0)):
            point, acceptance = transition(
                density, point, log_size.exp(), betas[index], settings.leapfrog_steps
            )
            gain = max(_LEAST_GAIN, (1 + done) ** -0.5)
            log_size = log_size + gain * (acceptance.mean(0) - settings.target_acceptance)
            log_size = log_size.clamp(math.log(_SMALLEST), math.log(_LARGEST))
            done += 1
            tick()
        sizes.append(log_size.exp())
    return Kernels(betas, torch.stack(sizes), settings.leapfrog_steps)


def _repeats(num_steps: int) -> int:
    return max(1, _LEAST // (num_steps - 1))
