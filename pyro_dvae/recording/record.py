"""One run of a function of tensors, kept as a graph of tensor operations that can be run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dvae.random_state import forked
from pyro_dvae.recording.following import Unrecordable, failing_as, followed


def record(function: Callable[..., Tensor | list[Tensor]], *example: Tensor) -> GraphModule:
    """Return ``function`` at arguments of these shapes as a graph, without Pyro's and Python's work.

    Every run of the graph draws fresh random numbers, the very ones that the function would draw. What is
    no argument (parameters, numbers, settings) is frozen as it is now. The recording runs the function once,
    apart from the global random streams, without gradients and with Pyro's validation off.

    :raises Unrecordable: the function reads values back, or an operation has no graph; names the line.
    """

    def run(*given: Tensor) -> Tensor | list[Tensor]:
        with followed():
            return function(*given)

    with failing_as(Unrecordable), forked(), torch.no_grad(), pyro.validation_enabled(False):
        graph = make_fx(run, tracing_mode="real")(*example)
    drop_unused(graph)
    return graph


def noted(node: Any) -> Any:
    """Return what the recording noted of a node's value: something with a shape and a dtype, or None."""
    if not isinstance(node, Node):
        return None
    return node.meta.get("val", node.meta.get("tensor_meta"))


def drop_unused(graph: GraphModule) -> None:
    """Remove operations that nothing reads, but for random draws: those move the generator on."""

    def is_impure(node: Node) -> bool:
        if node.op in ("placeholder", "output"):
            return True
        tags = getattr(node.target, "tags", ())
        schema = getattr(node.target, "_schema", None)
        return torch.Tag.nondeterministic_seeded in tags or bool(schema is not None and schema.is_mutable)

    graph.graph.eliminate_dead_code(is_impure)
    graph.recompile()
