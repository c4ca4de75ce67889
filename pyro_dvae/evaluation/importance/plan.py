"""Splits importance sampling into passes that fit into memory, and finds the fastest way to run them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.engine import (
    NoCompiler,
    Unrecordable,
    compile_graph,
    fuse_bernoulli_sums,
    record,
    replace_log1p,
    use_bfloat16_products,
)
from pyro_dvae.errors import warn
from pyro_dvae.evaluation.importance.proposals import Pass, Proposal
from pyro_dvae.evaluation.importance.tally import Convergence
from pyro_dvae.internals import TorchDispatchMode, tree_leaves, uncompiled
from pyro_dvae.random_state import forked


class _Allocations(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations create; views and in-place results count as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in given:
                self.total += leaf.untyped_storage().nbytes()
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def allocated_bytes(run: Callable[[], object]) -> int:
    """Return the bytes of all tensors that ``run`` creates, an upper bound of its peak memory."""
    allocations = _Allocations()
    with torch.no_grad(), allocations:
        run()
    return allocations.total


Run = Callable[..., Tensor]

_WORTH_RECORDING = 3.0  # seconds of plain runs
_WORTH_COMPILING = 30.0  # seconds of recorded runs: about twice the time of the compiler
_SEEDS = (1, 2)


class Disagreement(RuntimeError):  # noqa: N818 - a finding, caught by name
    """A fast form of a program gives other values than the program."""


def fastest(
    run: Run, example: tuple[Tensor, ...], times: int, *, compiled: bool | None, bfloat16: bool
) -> Run:
    """Return ``run`` itself, or its recorded or compiled form if that saves time in ``times`` runs.

    A form is used only if it gives the values of ``run`` for two seeds and two orders of the rows. If a form
    that was requested, or would save time, is not available, a warning says why.

    :param example: arguments of the shapes of all runs.
    :param compiled: True and False decide; None compiles if the runs take long enough.
    """
    start = time.perf_counter()
    expected = _probe(run, example)
    seconds = (time.perf_counter() - start) / len(_SEEDS)
    if not (compiled or bfloat16) and times * seconds < _WORTH_RECORDING:
        return run
    try:
        with uncompiled():
            graph = record(run, *example)
        _compare(graph, example, expected)
    except (Unrecordable, Disagreement) as error:
        warn(f"running model and guide anew in every pass, which is slower: {error}")
        return run
    if bfloat16:
        use_bfloat16_products(graph)
    start = time.perf_counter()
    rounded = _probe(graph, example)
    seconds = (time.perf_counter() - start) / len(_SEEDS)
    if compiled is False or (compiled is None and times * seconds < _WORTH_COMPILING):
        return graph
    # Fused sums are faster only when compiled, so the graph itself stays unfused.
    fused = GraphModule(graph, copy.deepcopy(graph.graph))
    fuse_bernoulli_sums(fused)
    replace_log1p(fused)
    try:
        fast = compile_graph(fused, *example)
        _compare(fast, example, rounded, coarse=bfloat16)
    except (NoCompiler, Disagreement) as error:
        warn(f"running without compilation, which is slower: {error}")
        return graph
    return fast


def _probe(run: Run, example: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the values of two runs with different seeds and orders of the rows."""
    found = []
    for seed in _SEEDS:
        rows = example if seed == _SEEDS[0] else tuple(each.flip(0) for each in example)
        with forked(seed):
            found.append(run(*rows))
    return found


def _compare(run: Run, example: tuple[Tensor, ...], expected: list[Tensor], coarse: bool = False) -> None:
    for got, wanted in zip(_probe(run, example), expected, strict=True):
        # The rounding error of a sum of about a thousand terms.
        relative = 0.02 if coarse else 1e3 * torch.finfo(wanted.dtype).eps
        if got.shape != wanted.shape or not torch.allclose(
            got, wanted, rtol=relative, atol=100 * relative, equal_nan=True
        ):
            raise Disagreement("the recorded form gives other values (does the program keep a state?)")


# Decoder inputs at once on a CPU: few enough for its activations to stay in the cache.
ROWS_IN_CACHE = 2000
ROWS_ON_ACCELERATOR = 500_000
# Rows at once: few rows with many draws each are summed faster.
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 4, 20
_WEIGHTS_AT_ONCE = 8_000  # of a chunk: enough for their sums to be cheap compared with the decoder
_BYTES_PER_WEIGHT = 80  # of a block of log weights: float64 copies, exponentials, sorting of the tail
_BLOCK_AT_MOST = 1_000_000  # log weights; larger blocks are not faster


@dataclass(frozen=True)
class Plan:
    """Chunks of ``data`` rows, each in ``passes`` runs of ``one``; ``block`` passes are summed together."""

    one: Pass
    passes: int
    data: int
    block: int

    @property
    def num_samples(self) -> int:
        """The total number of draws of each row."""
        return self.one.num_draws * self.passes

    @property
    def cut(self) -> list[int]:
        """The numbers of passes, draws and rows, which determine the random numbers."""
        return [self.passes, self.one.num_draws, self.data]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of samples of the mean estimates."""
        return tuple(self.convergence(1).sizes)

    def convergence(self, data: int) -> Convergence:
        """Return an empty record of means by number of samples."""
        unit = 0 if self.one.from_prior else self.one.proposal.strata
        return Convergence(self.one.num_draws, self.passes, unit, data)


def smallest_pass(proposal: Proposal, nesting: int | float, noisy: bool) -> Pass:
    """Return the smallest pass with a variance: two draws of each kind."""
    return Pass(proposal, 2, 2 if proposal.defensive else 0, nesting, noisy)


def plan(
    num_samples: int, num_data: int, smallest: Pass, rows_at_once: int, memory: int, row_bytes: int
) -> Plan:
    """Split ``num_samples`` draws of ``num_data`` rows into equal passes.

    ``num_samples`` is rounded up to whole passes, by less than the number of strata times the number of
    passes.

    :param rows_at_once: maximum of draws × rows in a pass, unless the smallest pass exceeds it.
    :param memory: maximum number of bytes.
    :param row_bytes: bytes of a draw of a row.
    """
    proposal = smallest.proposal
    rows = max(smallest.num_draws, min(rows_at_once, memory // 2 // row_bytes))
    # With a mixture, the guide runs on M inputs per row.
    most = max(_FEWEST_AT_ONCE, _MOST_AT_ONCE // proposal.strata)
    at_once = min(most, max(_FEWEST_AT_ONCE, _WEIGHTS_AT_ONCE // num_samples))
    share = max(1, min(at_once, num_data, rows // smallest.num_draws))
    passes = -(-num_samples // max(smallest.num_draws, rows // share))
    wanted = -(-num_samples // passes)
    from_prior = max(2, round(wanted * proposal.defensive)) if proposal.defensive else 0
    per_stratum = max(1, -(-(wanted - from_prior) // proposal.strata))
    one = replace(smallest, per_stratum=per_stratum, from_prior=from_prior)
    data = max(1, min(num_data, rows // one.num_draws))
    block_rows = max(1, min(_BLOCK_AT_MOST, memory // 2 // _BYTES_PER_WEIGHT))
    block = max(1, min(passes, block_rows // (one.num_draws * data)))
    return Plan(one, passes, data, block)
