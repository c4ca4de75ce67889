"""The options of an annealing run and its path of inverse temperatures 0 = β_0 < ... < β_T = 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.random_state import start_seed

# How far the sigmoid reaches into its tails: 4 in the experiments of Wu et al. (2017).
_REACH = 4.0


def sigmoid(num_steps: int) -> Tensor:
    """Return β_t = (σ(r(2t/T − 1)) − σ(−r)) / (σ(r) − σ(−r)), r = 4: small steps near both ends.

    Wu, Burda, Salakhutdinov and Grosse (2017), "On the quantitative analysis of decoder-based generative
    models".
    """
    raw = torch.sigmoid(_REACH * (2 * linear(num_steps) - 1))
    return (raw - raw[0]) / (raw[-1] - raw[0])


def linear(num_steps: int) -> Tensor:
    """Return β_t = t / T."""
    return torch.arange(num_steps + 1, dtype=torch.float64) / num_steps


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": linear, "sigmoid": sigmoid}


def inverse_temperatures(schedule: str, num_steps: int) -> Tensor:
    """Return β_0 = 0, ..., β_T = 1 of a named schedule, shape [T + 1], float64."""
    return SCHEDULES[checks.known("schedule", schedule, SCHEDULES)](num_steps)


STARTS = ("guide", "prior")
DEFAULT_MEMORY = 512 * 2**20


@dataclass(frozen=True)
class AnnealingSettings:
    """The settings of an annealing run: arguments of :func:`annealed_log_likelihood`.

    :param num_steps: T, temperature increments (one HMC transition between any two).
    :param num_chains: C, chains per observation.
    :param start: ``"prior"`` or ``"guide"``, the distribution at β = 0.
    :param leapfrog_steps: L, leapfrog steps of a transition: one gradient each.
    :param schedule: name of the inverse temperatures.
    :param target_acceptance: mean Metropolis acceptance that the step sizes are adapted to.
    :param seed: seed of the random streams; drawn from torch's global stream if none was given.
    """

    num_steps: int
    num_chains: int
    start: str
    leapfrog_steps: int
    schedule: str
    target_acceptance: float
    seed: int

    @classmethod
    def checked(
        cls,
        num_steps: int,
        num_chains: int,
        start: str,
        leapfrog_steps: int,
        schedule: str,
        target_acceptance: float,
        seed: int | None,
    ) -> AnnealingSettings:
        """Check each option; draw the seed from torch's global stream if it is None."""
        num_steps = checks.count("num_steps", num_steps)
        num_chains = checks.count("num_chains", num_chains)
        checks.known("start", start, STARTS)
        leapfrog_steps = checks.count("leapfrog_steps", leapfrog_steps)
        checks.known("schedule", schedule, SCHEDULES)
        target = checks.number("target_acceptance", target_acceptance, minimum=0.01, maximum=0.99)
        # Last, so that a refused call does not advance the global stream.
        drawn = start_seed(seed)
        return cls(num_steps, num_chains, start, leapfrog_steps, schedule, target, drawn)
