"""Records a function of tensors, or a loss with its gradients, as a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dvae.engine.following import BuiltIn, Unrecordable, failing_as, followed
from pyro_dvae.engine.observing import refusing_python_draws, undone
from pyro_dvae.internals import noting_shapes, schema, uncompiled
from pyro_dvae.random_state import forked


def record(function: Callable[..., Tensor | list[Tensor]], *example: Tensor) -> GraphModule:
    """Return ``function`` for arguments of these shapes as a graph of tensor operations.

    Every run of the graph draws the random numbers that the function would draw. Everything that is not an
    argument (parameters, numbers, settings) is frozen. The recording runs the function once, on a forked
    random stream, without gradients and with Pyro's validation off.

    :raises Unrecordable: the function reads values, or an operation has no graph; the message names the line.
    """

    def run(*given: Tensor) -> Tensor | list[Tensor]:
        with followed():
            return function(*given)

    with failing_as(Unrecordable), forked(), torch.no_grad(), pyro.validation_enabled(False):
        graph = traced(run, *example)
    drop_unused(graph)
    return graph


def traced(function: Callable[..., Any], *example: Tensor) -> GraphModule:
    """Return the operations of ``function`` on these tensors as a graph with the shape of each value."""
    with noting_shapes():
        return make_fx(function, tracing_mode="real")(*example)


def noted(node: Any) -> Any:
    """Return the recorded description of a node's value, which has a shape and a dtype, or None."""
    if not isinstance(node, Node):
        return None
    return node.meta.get("val", node.meta.get("tensor_meta"))


def drop_unused(graph: GraphModule, keep_draws: bool = True) -> None:
    """Remove operations whose results are not used.

    :param keep_draws: keep unused random draws, which advance the generator.
    """

    def is_impure(node: Node) -> bool:
        if node.op in ("placeholder", "output"):
            return True
        tags = getattr(node.target, "tags", ())
        known = schema(node.target)
        draws = keep_draws and torch.Tag.nondeterministic_seeded in tags
        return draws or bool(known is not None and known.is_mutable)

    graph.graph.eliminate_dead_code(is_impure)
    graph.recompile()


LossAndGrads = Callable[..., Any]


@dataclass(frozen=True)
class RecordedGradient:
    """The graph (leaves, tensors) → (loss, gradients).

    :param graph: a function of the leaves, then the tensor arguments.
    :param leaves: the parameters that get a gradient, in the order of the gradients.
    :param numbers: the Python numbers of the user's code that became constants.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]
    numbers: tuple[BuiltIn, ...]


def record_gradient(
    loss_and_grads: LossAndGrads, leaves: Sequence[Tensor], tensors: Sequence[Tensor]
) -> RecordedGradient:
    """Record one evaluation of a loss that adds its gradient to the leaves' ``.grad``, as Pyro's ELBOs do.

    A run of the graph reads its own arguments as leaves. In-place changes by the recording (the statistics of
    a batch normalisation) are undone; each run of the graph makes them.

    :param loss_and_grads: function of the tensors that returns the loss.
    :param leaves: unconstrained parameters; those without a gradient are left out of the result.
    :param tensors: example arguments with the shapes of all runs.
    :raises Unrecordable: the program's control flow depends on values, it draws from Python's random
        streams, changes its arguments, sends gradients elsewhere, or an operation has no graph.
    """
    if torch.is_anomaly_enabled():
        raise Unrecordable(
            "torch's detection of anomalies reads every gradient: switch it off "
            "(torch.autograd.set_detect_anomaly(False))"
        )
    reached: list[Tensor] = []
    numbers: list[BuiltIn] = []
    count = len(leaves)

    def run(*inputs: Tensor) -> list[Tensor]:
        leaves, tensors = inputs[:count], inputs[count:]
        for leaf in leaves:
            leaf.grad = None
        with torch.enable_grad(), followed(items_stay=True, leaves=leaves) as found:
            loss = loss_and_grads(*tensors)
        if not isinstance(loss, Tensor):
            raise TypeError(f"the loss came as a {type(loss).__name__}, so it cannot be followed")
        numbers[:] = found
        reached[:] = [leaf for leaf in leaves if leaf.grad is not None]
        return [loss.detach(), *[leaf.grad for leaf in reached if leaf.grad is not None]]

    with failing_as(Unrecordable), undone(leaves) as changes, uncompiled():
        graph = traced(refusing_python_draws(run), *leaves, *tensors)
    memory = {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
    if any(t.untyped_storage().data_ptr() in memory for t, _ in changes.before.values() if t.numel()):
        raise Unrecordable("the program changes its arguments in place")
    if len(reached) < len(leaves):
        # Only leaves with a gradient become inputs, so that their order matches the gradients.
        return record_gradient(loss_and_grads, reached, tensors)
    return RecordedGradient(graph, tuple(reached), tuple(numbers))


def evaluate(
    loss_and_grads: LossAndGrads, leaves: Sequence[Tensor], tensors: Sequence[Tensor]
) -> list[Tensor]:
    """Return loss and gradients of an ordinary run of the program, and undo its changes."""
    with undone(leaves), torch.enable_grad():
        loss = loss_and_grads(*tensors)
        zeros = (torch.zeros_like(leaf) for leaf in leaves)
        gradients = [
            zero if leaf.grad is None else leaf.grad for leaf, zero in zip(leaves, zeros, strict=True)
        ]
        # Copies, because results that were written in place are undone, too.
        return [each.detach().clone() for each in (torch.as_tensor(loss), *gradients)]


def constants(graph: GraphModule) -> dict[str, Tensor]:
    """Return the constant tensors of a graph by name, in the order of their first use."""
    names = dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "get_attr")
    return {name: getattr(graph, name) for name in names}


def difference(first: GraphModule, other: GraphModule, with_tensors: bool = True) -> str | None:
    """Describe the first difference between two graphs, or return None.

    :param with_tensors: also compare their constant tensors.
    """
    then, now = (
        [(node.op, str(node.target), str(node.args), str(node.kwargs)) for node in graph.graph.nodes]
        for graph in (first, other)
    )
    if then != now:
        pairs = zip(then, now, strict=False)
        odd = next((f"{a[1]}{a[2]}, then {b[1]}{b[2]}" for a, b in pairs if a != b), None)
        return odd or f"{len(then)} operations, then {len(now)}"
    if with_tensors:
        for name, value in constants(first).items():
            found = getattr(other, name)
            if found is not value and not _same(value, found):
                return f"{name} {_brief(value)}, then {_brief(found)}"
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return a.data_ptr() == b.data_ptr() or bool(
        torch.allclose(a, b, rtol=0, atol=0, equal_nan=a.is_floating_point())
    )


def _brief(tensor: Tensor) -> str:
    return f"{tensor.flatten()[:4].tolist()} of shape {tuple(tensor.shape)}"
