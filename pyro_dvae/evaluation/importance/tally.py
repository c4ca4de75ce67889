"""Running sums of importance weights, and the file from which an interrupted evaluation resumes."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.checkpoint import content, load_checkpoint, save_checkpoint
from pyro_dvae.errors import CheckpointError
from pyro_dvae.evaluation.importance.psis import smoothed_log_sum, tail_length

_STEPS = (1, 2, 5)
_COARSE = 0.1  # nats: the largest rounding error of log weights that still say which draws are good


def resolved(log_density: Tensor, eps: float) -> Tensor:
    """Whether rounding leaves the differences between log-densities of this size; false for NaN.

    :param eps: relative rounding error of the type in which they are computed.
    """
    return eps * log_density.abs() <= _COARSE


class Tally:
    """Sums over the draws of some rows, in float64 and in log space, in memory independent of S.

    A row with a log weight of NaN is unknown.

    :param num_samples: S, the total number of draws of each row.
    :param num_data: N.
    """

    def __init__(self, num_samples: int, num_data: int) -> None:
        nothing = torch.full((num_data,), -math.inf, dtype=torch.float64)
        self.num_samples = num_samples
        self.log_sum, self.log_square_sum, self.log_variance = nothing, nothing, nothing
        self.log_rest = nothing
        self.unknown = torch.zeros(num_data, dtype=torch.bool)
        self.largest = nothing[:, None].expand(-1, min(tail_length(num_samples) + 1, num_samples))

    def add(self, parts: Sequence[Tensor]) -> None:
        """Add log weights in parts [strata, draws, N]; the draws of a stratum are i.i.d."""
        for part in parts:
            values = part.double()
            missing = values.isnan()
            self.unknown = self.unknown | missing.any(0).any(0)
            values = values.masked_fill(missing, -math.inf)
            top = values.amax((0, 1))
            # A row whose weights are all zero must not give inf − inf.
            shift = torch.where(torch.isfinite(top), top, 0.0)
            weights = (values - shift).exp()
            count = part.shape[1]
            squares = weights.square().sum((0, 1))
            deviations = (weights - weights.mean(1, keepdim=True)).square().sum((0, 1))
            bessel = count / (count - 1) if count > 1 else math.nan
            self.log_sum = torch.logaddexp(self.log_sum, weights.sum((0, 1)).log() + shift)
            self.log_square_sum = torch.logaddexp(self.log_square_sum, squares.log() + 2 * shift)
            self.log_variance = torch.logaddexp(self.log_variance, (deviations * bessel).log() + 2 * shift)
            self._keep_largest(values.flatten(0, 1).T)

    def _keep_largest(self, values: Tensor) -> None:
        width = self.largest.shape[1]
        values = torch.cat([self.largest, values], 1)
        self.largest, kept = values.topk(width, 1, sorted=False)
        others = values.scatter(1, kept, -math.inf)
        self.log_rest = torch.logaddexp(self.log_rest, others.logsumexp(1))

    def results(self, resolution: float, eps: float) -> dict[str, Tensor]:
        """Return the estimates of each row [N], by name.

        The weights of an unknown row cannot be trusted, nor those of a row so unlike the model that rounding
        hides their differences: its Pareto k is +inf, and its ESS 0.

        :param resolution: rounding error of a log weight (nats); smaller differences are ignored.
        :param eps: relative rounding error of the type in which the densities are computed.
        """
        bad = self.unknown | ~resolved(self.largest.amax(1), eps)
        log_samples = math.log(self.num_samples)
        smoothed, pareto_k = smoothed_log_sum(self.largest, self.log_rest, resolution=resolution)
        return {
            "log_likelihood": (self.log_sum - log_samples).masked_fill(self.unknown, math.nan),
            "smoothed_log_likelihood": smoothed - log_samples,
            "standard_error": ((self.log_variance - 2 * self.log_sum) / 2).exp(),
            "ess": (2 * self.log_sum - self.log_square_sum).exp().nan_to_num(0.0).masked_fill(bad, 0.0),
            "pareto_k": pareto_k.masked_fill(bad, math.inf),
        }


class Convergence:
    """The mean estimate by number of samples: averages over disjoint groups of the draws of each row.

    In expectation it rises with the size of the groups, like the bounds of Burda et al. (2016).

    :param draws: draws of a pass; groups within a pass are multiples of ``unit`` (0: only whole passes).
    :param passes: the total number of passes.
    """

    def __init__(self, draws: int, passes: int, unit: int, num_data: int) -> None:
        self.draws, self.passes = draws, passes
        self.inside = [unit * size for size in _grid(draws // unit)] if unit else []
        self.inside = [size for size in self.inside if size < draws]
        self.sums = torch.zeros(len(self.inside), num_data, dtype=torch.float64)
        self.totals: list[Tensor] = []

    @property
    def sizes(self) -> list[int]:
        """The numbers of samples."""
        return [*self.inside, *[self.draws * size for size in _grid(self.passes)]]

    def add(self, log_weight: Tensor) -> None:
        """Add log weights [passes, draws, N]."""
        values = log_weight.double()
        for row, size in enumerate(self.inside):
            groups = values[:, : self.draws // size * size].unflatten(1, (-1, size))
            bound = groups.logsumexp(2) if size > 1 else groups[:, :, 0]
            self.sums[row] += (bound - math.log(size)).mean(1).sum(0)
        self.totals.append(values.logsumexp(1) - math.log(self.draws))

    def results(self) -> Tensor:
        """Return the averages, shape [N, sizes] (nats)."""
        totals = torch.cat(self.totals)
        across = []
        for size in _grid(self.passes):
            groups = totals[: self.passes // size * size].unflatten(0, (-1, size))
            across.append((groups.logsumexp(1) - math.log(size)).mean(0))
        return torch.cat([self.sums / self.passes, torch.stack(across)]).T


def _grid(most: int) -> list[int]:
    """Return 1, 2, 5, 10, 20, ... up to ``most``, and ``most``."""
    sizes = [step * 10**power for power in range(12) for step in _STEPS]
    return [size for size in sizes if size < most] + ([most] if most else [])


_KIND = "log_likelihood"
_SECONDS_BETWEEN = 10.0


class SavedChunks:
    """Finished chunks of an evaluation, written to a file every ten seconds and at the end.

    :param path: the file; None writes nothing. An existing file is resumed.
    :param settings: settings of the evaluation; a file with other settings is refused.
    :raises CheckpointError: the file is damaged, or from another evaluation.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.chunks: list[dict[str, Tensor]] = []
        self._saved = time.monotonic()
        if path is None:
            return
        if path.exists():
            try:
                self.chunks = self._read(path)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; finish that evaluation with its options, write to another place, or delete "
                    "the file"
                ) from None

    def add(self, results: dict[str, Tensor]) -> None:
        """Add the results of the next chunk."""
        self.chunks.append(results)
        if time.monotonic() - self._saved >= _SECONDS_BETWEEN:
            self.save()

    def save(self) -> None:
        """Write the finished chunks."""
        self._saved = time.monotonic()
        if self.path is not None and self.chunks:
            state = {"kind": _KIND, "settings": self.settings, "sizes": [_length(c) for c in self.chunks]}
            save_checkpoint(self.path, self.joined(), state)

    def joined(self) -> dict[str, Tensor]:
        """Return the results of all finished rows, by name, each [N, ...]."""
        return {name: torch.cat([chunk[name] for chunk in self.chunks]) for name in self.chunks[0]}

    def _read(self, path: Path) -> list[dict[str, Tensor]]:
        tensors, state = load_checkpoint(path)
        if state.get("kind") != _KIND:
            raise CheckpointError(f"checkpoint {path}: not from log_likelihood")
        for name, value in self.settings.items():
            found = state["settings"].get(name)
            if found != value:
                raise CheckpointError(
                    f"checkpoint {path}: from another evaluation: {name} was {found!r}, is now {value!r}"
                )
        parts = {name: values.split(state["sizes"]) for name, values in tensors.items()}
        return [
            {name: values[index] for name, values in parts.items()} for index in range(len(state["sizes"]))
        ]


def _length(chunk: dict[str, Tensor]) -> int:
    return len(next(iter(chunk.values())))


def stored_seed(path: Path | None) -> int | None:
    """Return the seed of the evaluation in a file, or None if there is no file."""
    if path is None or not path.exists():
        return None
    _, state = load_checkpoint(path)
    return int(state["settings"]["seed"]) if state.get("kind") == _KIND else None


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return a digest of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(content(tensor))
    return digest.hexdigest()
