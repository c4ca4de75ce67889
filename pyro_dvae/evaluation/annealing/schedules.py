"""The inverse temperatures 0 = β_0 < β_1 < ... < β_T = 1 of an annealing path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_dvae import checks

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
