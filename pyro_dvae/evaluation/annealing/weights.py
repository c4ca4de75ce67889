"""Importance weights of annealed chains, forwards and in reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import Programs
from pyro_dvae.evaluation.annealing.kernels import Kernels, Tick
from pyro_dvae.evaluation.annealing.starts import begin


@dataclass(frozen=True)
class Weights:
    """What a run of chains gives.

    :param log_weight: log w of each chain and datum, [C, N] (nats), float64.
    :param acceptance: mean over chains and data of each transition in order of temperature, [T − 1].
    """

    log_weight: Tensor
    acceptance: Tensor

    @classmethod
    def joined(cls, parts: list[Weights]) -> Weights:
        """Return the weights of all chunks of the data, and their acceptance by the data in each."""
        log_weight = torch.cat([part.log_weight for part in parts], 1)
        shares = [part.log_weight.shape[1] / log_weight.shape[1] for part in parts]
        acceptance = [share * part.acceptance for share, part in zip(shares, parts, strict=True)]
        return cls(log_weight, torch.stack(acceptance).sum(0))


def forward_weights(programs: Programs, kernels: Kernels, num_chains: int, tick: Tick) -> Weights:
    """Anneal chains from p_0 to the posterior: E[w] = p(x) for any number of steps (Neal 2001).

    log w = Σ_{t=1..T} (β_t − β_{t−1}) [log p(x, z_{t−1}) − log p_0(z_{t−1})],
    z_0 ~ p_0, z_t ~ K_t(·|z_{t−1}).
    """
    density, point = begin(programs, num_chains)
    betas = kernels.betas
    log_weight = torch.zeros_like(point.increment)
    acceptance = []
    for index in range(1, len(betas)):
        log_weight = log_weight + (betas[index] - betas[index - 1]) * point.increment
        if index < len(betas) - 1:
            point, accepted = kernels.apply(density, point, index)
            acceptance.append(accepted.mean())
        tick()
    return Weights(log_weight.cpu(), _stacked(acceptance))


def reverse_weights(
    programs: Programs, kernels: Kernels, num_chains: int, latents: Mapping[str, Tensor], tick: Tick
) -> Weights:
    """Anneal chains from an exact posterior sample back to p_0: E[1/w] = 1/p(x) (Grosse et al. 2015).

    The weights are those of the same path run forwards, with z_{T−1} ~ p(z|x) and z_{t−1} ~ K_t(·|z_t): as
    each kernel is reversible, it is its own reversal.

    :param latents: by name, each [1, *plates, *event]: where all chains of a datum begin.
    """
    density, point = begin(programs, num_chains, latents)
    betas = kernels.betas
    log_weight = torch.zeros_like(point.increment)
    acceptance = []
    for index in range(len(betas) - 1, 0, -1):
        log_weight = log_weight + (betas[index] - betas[index - 1]) * point.increment
        if index > 1:
            point, accepted = kernels.apply(density, point, index - 1)
            acceptance.append(accepted.mean())
        tick()
    return Weights(log_weight.cpu(), _stacked(acceptance[::-1]))


def _stacked(values: list[Tensor]) -> Tensor:
    return torch.stack(values).cpu() if values else torch.empty(0, dtype=torch.float64)
