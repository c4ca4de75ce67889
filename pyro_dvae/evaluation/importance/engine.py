"""The fastest way at hand to run the same tensor code many times, checked against the plain one."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.parameters import uncompiled
from pyro_dvae.random_state import forked
from pyro_dvae.recording import (
    NoCompiler,
    Unrecordable,
    compile_graph,
    fuse_bernoulli_sums,
    record,
    use_bfloat16_products,
)

Run = Callable[..., Tensor]

_WORTH_RECORDING = 3.0  # seconds of plain runs
_WORTH_COMPILING = 30.0  # seconds of recorded runs: about twice what the compiler takes
_SEEDS = (1, 2)


class Disagreement(RuntimeError):  # noqa: N818 - a finding, caught by name
    """A fast form of a program gave other values than the program."""


def fastest(
    run: Run, example: tuple[Tensor, ...], times: int, *, compiled: bool | None, bfloat16: bool
) -> Run:
    """Return ``run`` itself, or its recorded or compiled form where ``times`` runs repay the work.

    A form is used only if it gives the values of ``run`` for two seeds and two orders of the rows. Where a
    form that was asked for, or that would have paid, cannot be had, a warning says why.

    :param example: arguments of the shapes that all runs will have.
    :param compiled: True and False decide; None compiles what is long enough.
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
        _warn(f"running model and guide anew in every pass, which is slower: {error}")
        return run
    if bfloat16:
        use_bfloat16_products(graph)
    start = time.perf_counter()
    rounded = _probe(graph, example)
    seconds = (time.perf_counter() - start) / len(_SEEDS)
    if compiled is False or (compiled is None and times * seconds < _WORTH_COMPILING):
        return graph
    # Fused sums are faster compiled and slower operation by operation, so the graph itself stays as it is.
    fused = GraphModule(graph, copy.deepcopy(graph.graph))
    fuse_bernoulli_sums(fused)
    try:
        fast = compile_graph(fused, *example)
        _compare(fast, example, rounded, coarse=bfloat16)
    except (NoCompiler, Disagreement) as error:
        _warn(f"running without compilation, which is slower: {error}")
        return graph
    return fast


def _probe(run: Run, example: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the values of two runs: other seeds, other order of the rows."""
    found = []
    for seed in _SEEDS:
        rows = example if seed == _SEEDS[0] else tuple(each.flip(0) for each in example)
        with forked(seed):
            found.append(run(*rows))
    return found


def _compare(run: Run, example: tuple[Tensor, ...], expected: list[Tensor], coarse: bool = False) -> None:
    for got, wanted in zip(_probe(run, example), expected, strict=True):
        # Sums of about a thousand terms of the size of the whole, in the precision at hand.
        relative = 0.02 if coarse else 1e3 * torch.finfo(wanted.dtype).eps
        if got.shape != wanted.shape or not torch.allclose(
            got, wanted, rtol=relative, atol=100 * relative, equal_nan=True
        ):
            raise Disagreement("the recorded form gives other values (does the program keep a state?)")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
