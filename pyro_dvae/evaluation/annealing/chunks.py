"""How many data fit into the memory allowed, and the settings that each chunk of them runs under."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.density import Density
from pyro_dvae.evaluation.annealing.kernels import PILOT_CHAINS
from pyro_dvae.evaluation.annealing.starts import begin, programs_of
from pyro_dvae.evaluation.annealing.structure import Program, Structure
from pyro_dvae.evaluation.arguments import Arguments
from pyro_dvae.random_state import derived_seed, forked

# On top of what the graph keeps: gradients of the same size, on their way through it.
_WITH_GRADIENTS = 2
# Vectors [C, N, D] of a transition: two points with two gradients each, momenta and what is between.
_VECTORS = 16


@contextmanager
def stream(seed: int, *parts: object) -> Iterator[None]:
    """Run the body on a random stream of its own, without a gradient or Pyro's validation of every run."""
    with forked(derived_seed(seed, "annealing", *parts)), torch.no_grad(), pyro.validation_enabled(False):
        yield


def rows_at_once(
    model: Program,
    guide: Program | None,
    given: Arguments,
    structure: Structure,
    num_chains: int,
    memory: int,
) -> int:
    """Return the data of a chunk, so that an evaluation of the densities takes about ``memory`` bytes.

    The bytes of one datum with all its chains are measured: what autograd keeps of an evaluation of 2n data
    less what it keeps of n of them (which cancels the parameters), twice for the gradients, and 16 vectors
    of the size of the latents. At least one datum is taken, whatever the memory.
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
    """Return the bytes that autograd keeps of one evaluation."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give(tensor: Tensor) -> Tensor:
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, give):
        graph = density.log_densities(position.detach().requires_grad_())
    del graph  # alive until here, so that no storage was used twice
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
