"""The unnormalised posterior of each row's unconstrained latents, and its gradient, in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.density import AnnealedPrograms, Density, Packing
from pyro_dvae.evaluation.annealing.scoring import ChainPlate, Unconstraining, first_values
from pyro_dvae.evaluation.annealing.structure import Program, Structure, inspect, to_support
from pyro_dvae.evaluation.importance.plan import ROWS_IN_CACHE, ROWS_ON_ACCELERATOR, allocated_bytes, fastest
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data

_PAIRS_PER_ROW = 400  # of each function, at least


class Targets:
    """log p(x, z(u)) + log |∂z/∂u| of a model (nats), for draws u of each row's unconstrained latents.

    A block holds pairs of a row and a draw. All blocks have one shape, and each function is recorded and
    compiled if that saves time. Results do not depend on which rows are evaluated together.
    ``size`` is D, the number of unconstrained latent values of a row. Discrete latents are summed over.

    :param model: Pyro model of a batch.
    :param guide: Pyro guide of a batch.
    :param given: all rows; a few of them are inspected.
    :param nesting: number of dimensions of the user's plates.
    :param memory: approximate number of bytes of a block.
    :param compiled: whether to compile; None does so if it saves time.
    :raises InputError: all latents are discrete, one lies outside the data plate, or one has no density.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        given: Data,
        nesting: int | float = math.inf,
        memory: int = 2**29,
        compiled: bool | None = None,
    ) -> None:
        self.structure: Structure = inspect(model, guide, given, nesting)
        self.model, self.kwargs = model, given.kwargs
        self.memory, self.compiled = memory, compiled
        self._runs: dict[tuple[str, int], Callable[..., Tensor]] = {}
        self._most: dict[str, int] = {}
        self._expected = 0
        with forked(), torch.no_grad():
            points = self._prior_points(1, given[:1])
        self._data_position = 1 + self.structure.nesting + self.structure.data_dim
        self._one = Packing.of(points, self._data_position)
        self.size = self._one.pack(points).shape[-1]

    def expect(self, rows: int) -> None:
        """Set the number of rows to come, which decides whether compiling saves time."""
        self._expected = rows

    def log_densities(self, position: Tensor, rows: Arguments) -> tuple[Tensor, Tensor]:
        """Return log p(z) + log |∂z/∂u| and log p(x|z) at ``position`` [S, N, D], each [S, N], float64."""

        def run(block: Tensor, *parts: Tensor) -> Tensor:
            found = torch.stack(self._density(block, parts).log_densities(block))
            return found.squeeze(1).T.to(block)

        prior, likelihood = self._blocked("densities", run, position, rows).double().unbind(-1)
        return prior, likelihood

    def gradient(self, position: Tensor, rows: Arguments) -> tuple[Tensor, Tensor]:
        """Return the log joint density [S, N], float64, and its gradient [S, N, D] in ``position``."""

        def run(block: Tensor, *parts: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = block.detach().requires_grad_()
                value = torch.stack(self._density(leaf, parts).log_densities(leaf)).sum(0)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            return torch.cat([value.detach().unsqueeze(-1).to(slope), slope], -1).squeeze(0)

        found = self._blocked("gradient", run, position, rows)
        return found[..., 0].double(), found[..., 1:]

    def prior(self, count: int, rows: Arguments) -> Tensor:
        """Return ``count`` draws of each row from the prior of the latents, [count, N, D]."""
        return self.packed(self._prior_points(count, rows))

    def pack(self, values: Mapping[str, Tensor], rows: Arguments) -> Tensor:
        """Return latents by name, each [S, *plates, *event], as points [S, N, D] of unconstrained space.

        :raises InputError: values lie outside the support of the model's latents.
        """
        places = Unconstraining(self.structure, values)
        discrete = first_values(self.structure, len(next(iter(values.values()))), len(rows))
        AnnealedPrograms(self.model, None, rows, self.structure, {}).run(self.model, places, *discrete)
        for name, point in places.points.items():
            if not bool(torch.isfinite(point).all()):
                raise InputError(
                    f"guide: draws of the latent {name!r} lie outside its support in the model; give the "
                    "guide a distribution of that support, or use log_likelihood without refine"
                )
        return self.packed(places.points)

    def discrete_given(self, position: Tensor, rows: Arguments) -> dict[str, Tensor]:
        """Return draws of the discrete latents given the others at ``position`` [S, N, D], by name."""
        log_joint = self._density(position, rows.rows).by_combination(position)
        return self.structure.placed(Categorical(logits=log_joint.nan_to_num().movedim(0, -1)).sample())

    def packed(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return unconstrained latents by name as one tensor [S, N, D]."""
        return Packing.of(points, self._data_position).pack(points)

    def unpacked(self, position: Tensor) -> dict[str, Tensor]:
        """Return the unconstrained latents in ``position`` [S, N, D] by name."""
        return self._packing(position).unpack(position)

    def _packing(self, position: Tensor) -> Packing:
        rows = position.shape[1]
        shapes = {name: torch.Size((rows, *shape[1:])) for name, shape in self._one.shapes.items()}
        return replace(self._one, shapes=shapes)

    def _prior_points(self, count: int, rows: Arguments) -> dict[str, Tensor]:
        tracer = poutine.trace()
        chains = ChainPlate(count, self.structure.chain_dim)
        AnnealedPrograms(self.model, None, rows, self.structure, {}).run(self.model, tracer, chains)
        points = {}
        for name in self.structure.latents:
            site = tracer.trace.nodes[name]
            transform = to_support(site["fn"])
            points[name] = site["value"] if transform is None else transform.inv(site["value"])
        return points

    def _density(self, position: Tensor, parts: tuple[Tensor, ...]) -> Density:
        given = Arguments(parts, self.kwargs)
        programs = AnnealedPrograms(self.model, None, given, self.structure, {})
        return Density(programs, self._packing(position))

    def _blocked(self, name: str, run: Callable[..., Tensor], position: Tensor, rows: Arguments) -> Tensor:
        """Return the joined results of ``run`` on blocks [1, B, D] of pairs, [S, N, ...]."""
        draws, count = position.shape[:2]
        pairs = position.reshape(1, draws * count, -1)
        which = torch.arange(count, device=position.device).repeat(draws)
        size, fast = self._fast(name, run, pairs, which, rows)
        found = []
        for start in range(0, pairs.shape[1], size):
            chosen = _wrapped(start, size, pairs)
            found.append(fast(pairs[:, chosen], *rows[which[chosen]].rows))
        joined = torch.cat(found)[: draws * count]
        return joined.reshape(draws, count, *joined.shape[1:])

    def _fast(
        self, name: str, run: Callable[..., Tensor], pairs: Tensor, which: Tensor, rows: Arguments
    ) -> tuple[int, Callable[..., Tensor]]:
        """Return the size of a block, small if there are few pairs, and the function that evaluates one."""
        if name not in self._most:
            few = _wrapped(0, min(4, pairs.shape[1]), pairs)
            taken = allocated_bytes(lambda: run(pairs[:, few], *rows[which[few]].rows))
            most = ROWS_IN_CACHE if pairs.device.type == "cpu" else ROWS_ON_ACCELERATOR
            if name == "gradient":
                most //= 4  # its graph keeps intermediate values
            self._most[name] = max(1, min(most, self.memory // max(1, taken // len(few))))
        most = self._most[name]
        small = max(1, most // 16)
        size = small if pairs.shape[1] <= small else most
        if (name, size) not in self._runs:
            chosen = _wrapped(0, size, pairs)
            example = (pairs[:, chosen], *rows[which[chosen]].rows)
            times = self._expected * _PAIRS_PER_ROW // size
            compiled = self.compiled if size == most else False
            self._runs[name, size] = fastest(run, example, times, compiled=compiled, bfloat16=False)
        return size, self._runs[name, size]


def _wrapped(start: int, count: int, pairs: Tensor) -> Tensor:
    """Return ``count`` indices from ``start``, padded with the last pair."""
    return torch.arange(start, start + count, device=pairs.device).clamp(max=pairs.shape[1] - 1)
