"""One step of several models of one structure side by side: the recorded step of one of them, batched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.fx import GraphModule

from pyro_dvae.engine.adam import Slot, StepSizes
from pyro_dvae.engine.compiler import Compiled, build
from pyro_dvae.engine.following import Unrecordable, failing_as
from pyro_dvae.engine.gradient import difference, traced
from pyro_dvae.engine.hashed_noise import remaining_draws
from pyro_dvae.engine.honesty import Honest, Verification
from pyro_dvae.engine.observing import undone
from pyro_dvae.engine.step import STATES, Gradient, whole_step
from pyro_dvae.errors import InputError


def lift(graph: GraphModule, names: Sequence[str]) -> None:
    """Make constants of a graph inputs, in place: its last ones, in the order of their names."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    last = inputs[-1]
    for name in names:
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"lifted_{name}")
        for node in list(graph.graph.nodes):
            if node.op == "get_attr" and node.target == name:
                node.replace_all_uses_with(last)
                graph.graph.erase_node(node)
    graph.recompile()


def require_same_program(first: GraphModule, other: GraphModule, which: str) -> None:
    """Refuse a graph that computes something else; its constants may have other values."""
    odd = difference(first, other, with_tensors=False)
    if odd is not None:
        raise InputError(
            f"{which}: expected a program like the first one's (the same networks, corruption and bound; "
            f"seeds, weights, learning rates and levels held in tensors may differ), got {odd}"
        )


@dataclass(frozen=True)
class Side:
    """One of the models beside each other.

    :param honest: its program, as it was recorded.
    :param scope: gives a context in which Pyro's param store is the model's.
    """

    honest: Honest
    scope: Callable[[], AbstractContextManager[Any]]


class _Batched:
    """The programs of several models, and the recording of the first with the tensors of all.

    :param bring: copies the stacked parameters and buffers into the models, where their programs read them.
    """

    def __init__(
        self,
        gradient: Gradient,
        leaves: Sequence[Tensor],
        lifted: Sequence[Tensor],
        sides: Sequence[Side],
        bring: Callable[[], None],
    ) -> None:
        self.coarse = gradient.coarse
        self._graph, self._leaves, self._lifted = gradient.graph, leaves, lifted
        self._sides, self._bring = sides, bring

    def _first(
        self, look: Callable[[Honest, list[Tensor]], str | None], batch: Sequence[Tensor]
    ) -> str | None:
        self._bring()
        for number, side in enumerate(self._sides):
            with side.scope():
                found = look(side.honest, [x[number] for x in batch])
            if found is not None:
                return f"pairs[{number}]: {found}"
        return None

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Compare every model with its recording; return in words how the first odd one differs, or None."""
        return self._first(Honest.disagreement, tensors)

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Return in words what the program of the first odd model now computes in place of what, or None."""
        return self._first(Honest.change, tensors)

    def loss(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Return the losses [E] of the recording, one model after the other."""
        given = [*self._leaves, *tensors, *keys, *self._lifted]
        with undone(), torch.no_grad():
            return torch.stack([self._graph(*(t[n] for t in given))[0] for n in range(len(self._sides))])


class BatchedStep:
    """Loss, gradients and Adam's update of E models as one compiled function; all is changed in place.

    :param gradient: the recorded loss of one model, its varying constants lifted to its last inputs.
    :param slots: the optimizer's settings, of one model.
    :param leaves: the parameters, each [E, ...].
    :param states: step counts [E], means and mean squares [E, ...] of each parameter.
    :param lifted: the lifted constants, each [E, ...].
    :param batch: example data, each [E, ...].
    :param keys: example keys of the noise, [E, draws, 2].
    :param clip_norm: largest norm of all gradients of a model together.
    :param sides: the models, which the step is compared with now and then.
    :param bring: copies the stacked parameters and buffers into the models.
    :raises Unrecordable: the program draws what cannot be batched.
    """

    def __init__(
        self,
        gradient: Gradient,
        slots: Sequence[Slot],
        leaves: Sequence[Tensor],
        states: Sequence[Tensor],
        lifted: Sequence[Tensor],
        batch: Sequence[Tensor],
        keys: Tensor,
        clip_norm: float | None,
        sides: Sequence[Side],
        bring: Callable[[], None],
    ) -> None:
        left = remaining_draws(gradient.graph)
        if left:
            raise Unrecordable(f"{left[0]} draws from torch's generator, which cannot be batched")
        self.draws = gradient.draws
        self._verified = Verification(_Batched(gradient, leaves, lifted, sides, bring))
        self._counts = states[::STATES]
        self._sizes = StepSizes(slots, states[0].device)
        self._fixed = [*leaves, *states, *lifted]
        self._type = torch.float64 if any(leaf.dtype == torch.float64 for leaf in leaves) else torch.float32
        rates = torch.zeros(len(leaves[0]), len(slots), dtype=torch.float64, device=leaves[0].device)
        example = self._inputs(batch, rates, keys)
        step, before, after = (
            whole_step(gradient, slots, clip_norm),
            len(leaves) + len(states),
            len(self._fixed),
        )

        def one(*given: Tensor) -> tuple[Tensor, ...]:
            return tuple(step(*given[:before], *given[after:], *given[before:after]))

        with failing_as(Unrecordable), torch.no_grad():
            graph = traced(vmap(one), *[tensor.clone() for tensor in example])
        self._run: Compiled = build(graph, example, fixed=len(self._fixed))

    def _inputs(self, batch: Sequence[Tensor], rates: Tensor, keys: Tensor) -> list[Tensor]:
        sizes = self._sizes(torch.stack(list(self._counts), dim=-1), rates).to(self._type)
        return [*self._fixed, sizes, *batch, *([keys] if self.draws else [])]

    def __call__(self, batch: Sequence[Tensor], rates: Tensor, keys: Tensor) -> Tensor:
        """Take a step of every model; return their losses [E].

        :param batch: the parts of a batch of each, [E, N, ...].
        :param rates: learning rates, [E, slots].
        :param keys: of the noise, [E, draws, 2].
        :raises CompiledStepError: the program of one of them gives other numbers.
        """
        expected = self._verified.before(batch, [keys] if self.draws else [])
        losses = self._run(self._inputs(batch, rates, keys))[0]
        self._verified.after(losses, expected)
        return losses
