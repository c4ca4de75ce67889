"""Weights of annealed chains in both directions, and chunks of rows that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import AnnealedPrograms, ChainState, Density
from pyro_dvae.evaluation.annealing.kernels import PILOT_CHAINS, Kernels, Tick
from pyro_dvae.evaluation.annealing.starts import begin, programs_of
from pyro_dvae.evaluation.annealing.structure import Program, Structure
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.rows import Data


@dataclass(frozen=True)
class Weights:
    """The results of a run of chains.

    :param log_weight: log w of each chain and row, [C, N] (nats), float64.
    :param acceptance: mean acceptance of each transition over chains and rows, hot to cold, [T − 1].
    """

    log_weight: Tensor
    acceptance: Tensor

    @classmethod
    def joined(cls, parts: list[Weights]) -> Weights:
        """Join the weights of all chunks; average their acceptance, weighted by their numbers of rows."""
        log_weight = torch.cat([part.log_weight for part in parts], 1)
        shares = [part.log_weight.shape[1] / log_weight.shape[1] for part in parts]
        acceptance = [share * part.acceptance for share, part in zip(shares, parts, strict=True)]
        return cls(log_weight, torch.stack(acceptance).sum(0))


def forward_weights(programs: AnnealedPrograms, kernels: Kernels, num_chains: int, tick: Tick) -> Weights:
    """Anneal chains from p_0 to the posterior: E[w] = p(x) for any number of steps (Neal 2001).

    log w = Σ_{t=1..T} (β_t − β_{t−1}) [log p(x, z_{t−1}) − log p_0(z_{t−1})],
    z_0 ~ p_0, z_t ~ K_t(·|z_{t−1}).
    """
    return annealed(*begin(programs, num_chains), kernels, tick)[0]


def annealed(
    density: Callable[[Tensor], ChainState], point: ChainState, kernels: Kernels, tick: Tick
) -> tuple[Weights, ChainState]:
    """Anneal chains from ``point``, draws from p_0 of any path; return their weights and end points."""
    betas = kernels.betas
    log_weight = torch.zeros_like(point.increment)
    acceptance = []
    for index in range(1, len(betas)):
        log_weight = log_weight + (betas[index] - betas[index - 1]) * point.increment
        if index < len(betas) - 1:
            point, accepted = kernels.apply(density, point, index)
            acceptance.append(accepted.mean())
        tick()
    return Weights(log_weight.cpu(), _stacked(acceptance)), point


def reverse_weights(
    programs: AnnealedPrograms, kernels: Kernels, num_chains: int, latents: Mapping[str, Tensor], tick: Tick
) -> Weights:
    """Anneal chains from an exact posterior sample back to p_0: E[1/w] = 1/p(x) (Grosse et al. 2015).

    The weights are computed as on the forward path, with z_{T−1} ~ p(z|x) and z_{t−1} ~ K_t(·|z_t). Each
    kernel is reversible, so it is its own reversal.

    :param latents: where all chains of a row begin, by name, each [1, *plates, *event].
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


# The gradients of the backward pass are as large as the graph.
_WITH_GRADIENTS = 2
# Vectors [C, N, D] of a transition: two points with two gradients each, momenta and temporaries.
_VECTORS = 16


@contextmanager
def stream(seed: int, *parts: object) -> Iterator[None]:
    """Run the body on a separate random stream, without gradients and Pyro's validation."""
    with forked(derived_seed(seed, "annealing", *parts)), torch.no_grad(), pyro.validation_enabled(False):
        yield


def rows_at_once(
    model: Program,
    guide: Program | None,
    given: Data,
    structure: Structure,
    num_chains: int,
    memory: int,
) -> int:
    """Return the size of a chunk such that evaluating the densities takes about ``memory`` bytes.

    The bytes of one row with all its chains are measured: what autograd saves for 2n rows minus what it saves
    for n rows (the parameters cancel), doubled for the gradients, plus 16 vectors of the size of the latents.
    A chunk has at least one row.
    """
    few = min(4, len(given) // 2)
    if few == 0:
        return 1
    kept, vectors = [], 0
    for rows in (few, 2 * few):
        programs = programs_of(model, guide, given[:rows], structure)
        density, point = begin(programs, max(num_chains, PILOT_CHAINS))
        kept.append(_graph_bytes(density, point.position))
        vectors = point.position.nbytes
    each = _WITH_GRADIENTS * max(0, kept[1] - kept[0]) / few + _VECTORS * vectors / (2 * few)
    return max(1, int(memory / max(1.0, each)))


def _graph_bytes(density: Density, position: Tensor) -> int:
    """Return the bytes that autograd saves for one evaluation."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give(tensor: Tensor) -> Tensor:
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, give):
        graph = density.log_densities(position.detach().requires_grad_())
    del graph  # kept alive until here, so that no storage is reused
    return sum(storages.values())


class Counter:
    """Reports the steps done to ``progress``, a callable of (done, total)."""

    def __init__(self, progress: Callable[[int, int], None], steps: int) -> None:
        self.progress = progress
        self.steps = steps
        self.done = 0

    def __call__(self) -> None:
        self.done += 1
        self.progress(self.done, self.steps)
