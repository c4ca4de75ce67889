"""Gradient ascent on the bound of each row, in the parameters of its own Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_dvae.evaluation.refinement.gaussian import Gaussians
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.rows import Arguments

_DECAYS = (0.9, 0.999)
_EPSILON = 1e-3  # nats per unit: Adam would blow rounding errors up to whole steps where a row has arrived


def climbed(
    targets: Targets, rows: Arguments, start: Gaussians, family: str, settings: Refinement
) -> Gaussians:
    """Climb L_n(λ) = E_{q_λ}[log p(x_n, z) − log q_λ(z)] for all rows at once, by Adam.

    u = u(ε, λ), and the gradient is that of log p − log q through u alone: "sticking the landing" (Roeder, Wu
    and Duvenaud 2017), whose variance is 0 where q is the posterior. Adam works element by element, so no row
    depends on the others. A row whose gradient is not finite stays where it is in that step.
    """
    start, steps = (start.full(), 2 * settings.num_steps) if family == "full" else (start, settings.num_steps)
    leaves = [each.clone() for each in start.parameters() if each is not None]
    first = [torch.zeros_like(leaf) for leaf in leaves]
    second = [torch.zeros_like(leaf) for leaf in leaves]
    for step in range(1, steps + 1):
        slopes = _slopes(targets, rows, leaves, settings.num_draws)
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        corrections = [1 - decay**step for decay in _DECAYS]
        for leaf, slope, mean, square in zip(leaves, slopes, first, second, strict=True):
            slope = slope.nan_to_num(0.0, 0.0, 0.0)
            mean.lerp_(slope, 1 - _DECAYS[0])
            square.lerp_(slope.square(), 1 - _DECAYS[1])
            leaf.add_(mean / corrections[0] / ((square / corrections[1]).sqrt() + _EPSILON), alpha=rate)
    return Gaussians(*leaves)


def _slopes(targets: Targets, rows: Arguments, leaves: list[Tensor], draws: int) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        live = Gaussians(*[leaf.detach().requires_grad_() for leaf in leaves])
        position = live.draw(draws)
        point = position.detach().requires_grad_()
        density = Gaussians(*leaves).log_prob(point)
        (own,) = torch.autograd.grad(density.sum(), point)
        _, slope = targets.gradient(position.detach(), rows)
        surrogate = ((slope - own) * position).sum() / draws
        wanted = [each for each in live.parameters() if each is not None]
        return torch.autograd.grad(surrogate, wanted)
