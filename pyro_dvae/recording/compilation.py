"""Compilation of a recorded graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.random_state import forked
from pyro_dvae.recording.following import failing_as


class NoCompiler(RuntimeError):  # noqa: N818 - a statement about the machine, caught by name
    """The graph could not be compiled: on a CPU, most often for want of a C++ compiler."""


def compile_graph(graph: GraphModule, *example: Tensor) -> Callable[..., Any]:
    """Return ``graph`` compiled for arguments like ``example``; it draws the same random numbers.

    The compiler runs here and now, and takes seconds; gradients are not recorded. Parameters and other
    constants of the graph stay what they are now: on a CPU they are laid out as matrix products like best.

    :raises NoCompiler: the compiler is missing or fails.
    """
    # Frozen, where it was measured to pay: the weights are packed here once rather than in every run.
    on_cpu = all(each.device.type == "cpu" for each in example)
    with compiling(freezing=on_cpu), forked():
        run = torch.compile(graph, fullgraph=True, dynamic=False)
        run(*example)
    return run


@contextmanager
def compiling(freezing: bool = False) -> Iterator[None]:
    """Set the compiler up for the first call of what is to be compiled, without gradients.

    The generators of the compiled code are those of eager torch, so that a seed means the same.

    :raises NoCompiler: the body fails; the missing program g++ is one of many classes of errors.
    """
    with failing_as(NoCompiler):
        from torch._inductor import config

        with config.patch(fallback_random=True, freezing=freezing), torch.no_grad(), _without_remarks():
            yield


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep torch from remarking that its build for GPUs has found no GPU, or that its own code is dated."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
            yield
    finally:
        logger.setLevel(before)
