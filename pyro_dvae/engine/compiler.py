"""Compiles a recorded graph and, on a GPU, captures it as a CUDA graph."""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.engine.following import failing_as
from pyro_dvae.engine.kernels import fast_products, has_large_products
from pyro_dvae.internals import compiled, compiler_options
from pyro_dvae.interrupts import at_once
from pyro_dvae.random_state import forked


class NoCompiler(RuntimeError):  # noqa: N818 - a statement about the machine, caught by name
    """The graph could not be compiled: on a CPU, most often because there is no C++ compiler."""


def compile_graph(graph: GraphModule, *example: Tensor) -> Callable[..., Any]:
    """Return ``graph`` compiled for arguments like ``example``; it draws the same random numbers.

    The compiler runs immediately and takes seconds; there are no gradients. Parameters and other constants of
    the graph keep their current values; on a CPU they get a layout for fast matrix products.

    :raises NoCompiler: the compiler is missing or fails.
    """
    draw_as_eager(graph)
    # Freezing packs the weights once instead of in every run, which was measured to be faster on a CPU.
    on_cpu = all(each.device.type == "cpu" for each in example)

    def work() -> Callable[..., Any]:
        with compiling(graph, freezing=on_cpu), forked():
            run = torch.compile(graph, fullgraph=True, dynamic=False)
            run(*example)
        return run

    return _with_whole_libraries(work)


_Result = TypeVar("_Result")
_NO_LONGER_WRITTEN = 120.0  # seconds since the last change of a file


def _with_whole_libraries(work: Callable[[], _Result]) -> _Result:
    """Return the result of ``work``, deleting libraries that a killed compiler left unfinished.

    torch does not write them anew: every later run would find them in its cache and fail.
    """
    deleted: set[Path] = set()
    while True:
        try:
            return work()
        except NoCompiler as error:
            unfinished = _old_libraries(str(error.__cause__)) - deleted
            if not unfinished:
                raise
            deleted |= unfinished
            for path in unfinished:
                path.unlink(missing_ok=True)


def _old_libraries(message: str) -> set[Path]:
    """Return the libraries of torch's cache that a message names and nobody writes at present."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # set by torch if it was not
    paths = {Path(name) for name in re.findall(r"/\S+\.so", message)}
    return {
        path
        for path in paths
        if cache and path.is_relative_to(cache) and path.is_file()
        if time.time() - path.stat().st_mtime > _NO_LONGER_WRITTEN
    }


def draw_as_eager(graph: GraphModule) -> None:
    """Rewrite draws, in place, for which the compiler would use other random numbers than eager torch.

    It makes a Bernoulli draw from a float32 uniform number, whatever the type of the probabilities, but does
    not change the in-place form of the draw.
    """
    aten = torch.ops.aten
    for node in graph.graph.find_nodes(op="call_function", target=aten.bernoulli.default):
        with graph.graph.inserting_before(node):
            empty = graph.graph.call_function(aten.empty_like.default, node.args)
            empty.meta = dict(node.meta)
        node.target, node.args = aten.bernoulli_.Tensor, (empty, *node.args)
    graph.recompile()


_REORDERING = ("reorder_for_locality", "reorder_for_peak_memory")  # settings of compiler passes


@contextmanager
def compiling(graph: GraphModule, freezing: bool = False) -> Iterator[None]:
    """Set up the compiler for the first call of ``graph``, without gradients.

    The compiled code uses eager torch's generators and draws in the order of the graph, so a seed gives the
    same draws: before torch 2.14, the compiler would reorder draws to save memory.

    :raises NoCompiler: the body fails, which it may with any exception if g++ is missing.
    """
    with failing_as(NoCompiler):
        reorders = dict.fromkeys(_REORDERING, False) if _draws(graph) > 1 else {}
        # Part of the compiler's cache key.
        threads = {"cpp.threads": torch.get_num_threads()}
        options = compiler_options(fallback_random=True, freezing=freezing, **threads, **reorders)
        with options, torch.no_grad(), _without_remarks():
            yield


def _draws(graph: GraphModule) -> int:
    """Return how often the graph draws from torch's generators."""
    seeded = torch.Tag.nondeterministic_seeded
    return sum(seeded in getattr(node.target, "tags", ()) for node in graph.graph.nodes)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Suppress torch's warnings about a missing GPU, its own deprecated code, and TF32."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            yield
    finally:
        logger.setLevel(before)


Compiled: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
_WARM_UP = 3  # runs before a capture, as torch requires


def build(
    graph: GraphModule,
    example: Sequence[Tensor],
    fixed: int = 0,
    before: Callable[[list[Tensor]], list[Tensor]] | None = None,
) -> Compiled:
    """Return ``graph`` compiled for inputs like ``example``, which is not run.

    It draws the random numbers that the graph would draw. In-place operations change its inputs and the
    graph's constants. On a GPU the calls are captured in a CUDA graph after a few runs: the host then makes
    one launch per step and does not wait.

    :param fixed: number of first inputs that are always the same tensors, so that they are not copied.
    :param before: makes the inputs of the graph from those of the result, with operations that are captured,
        too, but not compiled.
    :raises NoCompiler: the compiler is missing or fails.
    """
    function = _after(before, _compiled(graph, list(example)))
    if example and all(tensor.is_cuda for tensor in example):
        return Captured(function, fixed)
    return function


def interpret(graph: GraphModule, before: Callable[[list[Tensor]], list[Tensor]] | None = None) -> Compiled:
    """Return ``graph`` as a function that runs it operation by operation, like that of :func:`build`."""

    def run(inputs: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(graph(*inputs))

    return _after(before, run)


def _after(before: Callable[[list[Tensor]], list[Tensor]] | None, function: Compiled) -> Compiled:
    return function if before is None else lambda inputs: function(before(inputs))


def _compiled(graph: GraphModule, example: list[Tensor]) -> Compiled:
    draw_as_eager(graph)
    products = fast_products if has_large_products(graph) else nullcontext

    def work() -> Callable[..., Any]:
        with compiling(graph), products(), at_once():
            return compiled(graph, [*example])

    function = _with_whole_libraries(work)

    def run(inputs: list[Tensor]) -> list[Tensor]:
        with torch.no_grad(), products():
            return list(function(*inputs))

    return run


class Captured:
    """A function on a GPU, replayed as a CUDA graph after a few runs.

    :param function: function of a list of tensors on one GPU, without synchronisation.
    :param fixed: number of first inputs that are the same tensors in every call; the others are copied.
    """

    def __init__(self, function: Compiled, fixed: int) -> None:
        self._function = function
        self._fixed = fixed
        self._runs = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Run the function; the caller may keep the results."""
        if self._runs < _WARM_UP:
            self._runs += 1
            return self._function(inputs)
        if self._graph is None:
            self._capture(inputs)
        for own, given in zip(self._inputs[self._fixed :], inputs[self._fixed :], strict=True):
            own.copy_(given, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return [output.clone() for output in self._outputs]

    def _capture(self, inputs: list[Tensor]) -> None:
        """Record one run; nothing is computed while recording."""
        self._inputs = [*inputs[: self._fixed], *(given.clone() for given in inputs[self._fixed :])]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs = self._function(self._inputs)
        self._graph = graph
