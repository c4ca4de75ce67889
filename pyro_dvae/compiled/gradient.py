"""A loss and its gradients as one recorded graph of tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dvae.random_state import forked
from pyro_dvae.recording.following import Unrecordable, failing_as, followed


@dataclass(frozen=True)
class RecordedGradient:
    """The graph (leaves, tensors) → (loss, gradients).

    :param graph: to be called with the leaves, then the tensor arguments.
    :param leaves: the parameters that it reads and that get a gradient, in the order of the gradients.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]


def record_gradient(
    loss_and_grads: Callable[..., Any], leaves: Sequence[Tensor], tensors: Sequence[Tensor]
) -> RecordedGradient:
    """Record one evaluation of a loss that adds its gradient to the leaves' ``.grad``, as Pyro's ELBOs do.

    A run of the graph reads the leaves that it is given. Modules' buffers (the statistics of a batch
    normalisation) are updated by each run, the recording among them.

    :param loss_and_grads: function of the tensors that returns the loss.
    :param leaves: unconstrained parameters; those without a gradient are left out of the result.
    :param tensors: example arguments, of the shapes that all runs will have.
    :raises Unrecordable: the program's control flow depends on values, or an operation has no graph.
    """
    before = [leaf.grad for leaf in leaves]
    reached: list[Tensor] = []
    count = len(leaves)

    def run(*inputs: Tensor) -> list[Tensor]:
        leaves, tensors = inputs[:count], inputs[count:]
        for leaf in leaves:
            leaf.grad = None
        with torch.enable_grad(), followed(items_stay=True):
            loss = loss_and_grads(*tensors)
        if not isinstance(loss, Tensor):
            raise TypeError(f"the loss came as a {type(loss).__name__}, so it cannot be followed")
        reached[:] = [leaf for leaf in leaves if leaf.grad is not None]
        return [loss.detach(), *[leaf.grad for leaf in reached if leaf.grad is not None]]

    try:
        with (
            failing_as(Unrecordable),
            forked(),
            pyro.validation_enabled(False),
        ):
            graph = make_fx(run, tracing_mode="real")(*leaves, *tensors)
    finally:
        for leaf, grad in zip(leaves, before, strict=True):
            leaf.grad = grad
    if len(reached) < len(leaves):
        # Only those with a gradient are inputs, so that their order is that of the gradients.
        return record_gradient(loss_and_grads, reached, tensors)
    return RecordedGradient(graph, tuple(reached))
