"""One gradient step on batches of one shape, as one compiled function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae import checks
from pyro_dvae.engine.adam import Adams, Slot, clipped_together, same_memory, update
from pyro_dvae.engine.compiler import Compiled, build, interpret
from pyro_dvae.engine.following import Unrecordable, failing_as
from pyro_dvae.engine.gradient import LossAndGrads, traced
from pyro_dvae.engine.hashed_noise import Bits, draw_keys, hash_noise, hashed_bits, threefry_bits
from pyro_dvae.engine.honesty import Honest, Verification, record_twice
from pyro_dvae.engine.kernels import fuse_bernoulli_sums, use_bfloat16_products, use_plain_logarithms
from pyro_dvae.engine.observing import Observation, undone
from pyro_dvae.random_state import forked

NOISES: dict[str, Bits | None] = {"torch": None, "hashed": hashed_bits, "threefry": threefry_bits}
STATES = 3  # tensors that Adam keeps of a parameter


@dataclass(frozen=True)
class Numerics:
    """How a recorded step computes.

    :param noise: where random numbers come from. "torch": its generator, as in an ordinary step; "hashed": a
        hash of counters (:mod:`pyro_dvae.engine.hashed_noise`); "threefry": JAX's generator. The
        distributions are the same, the numbers are not, and a hash takes the least time.
    :param bfloat16: round the factors of matrix products to bfloat16; weights and all else stay as they are.
    """

    noise: str = "torch"
    bfloat16: bool = False


@dataclass(frozen=True)
class Gradient:
    """A recorded loss with its gradients, rewritten as its numerics ask.

    :param graph: (leaves, tensors[, keys]) → [loss, gradients].
    :param leaves: those that get a gradient, in its order.
    :param draws: how many keys a run wants; 0: there is no input for them.
    :param honest: the program as it was recorded, and what it depended on.
    :param coarse: whether its products are rounded.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]
    draws: int
    honest: Honest
    coarse: bool = False

    def keys(self, device: torch.device) -> list[Tensor]:
        """Return fresh keys from torch's generator, as the last input or none."""
        return [draw_keys(self.draws, device)] if self.draws else []

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Run program and recording on the same random numbers; return in words how they differ, or None."""
        return self.honest.disagreement(tensors)

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Return in words what the program now computes in place of what, or None."""
        return self.honest.change(tensors)

    def loss(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Return the loss of the recording, which changes nothing."""
        with undone(), torch.no_grad():
            loss: Tensor = self.graph(*[leaf.detach() for leaf in self.leaves], *tensors, *keys)[0]
        return loss


def record_for(
    loss_and_grads: LossAndGrads,
    leaves: Sequence[Tensor],
    tensors: Sequence[Tensor],
    numerics: Numerics,
    programs: Sequence[Any],
    observation: Observation | None = None,
) -> Gradient:
    """Record a loss and rewrite it.

    :param programs: what ``loss_and_grads`` calls: model, guide, bound, and objects that are given to them.
    :param observation: of an earlier run, if there was one.
    :raises Unrecordable: see :func:`pyro_dvae.engine.honesty.record_twice`.
    """
    honest = record_twice(loss_and_grads, leaves, tensors, programs, observation)
    graph = GraphModule(honest.graph, copy.deepcopy(honest.graph.graph))
    fuse_bernoulli_sums(graph)
    use_plain_logarithms(graph)
    coarse = numerics.bfloat16 and use_bfloat16_products(graph) > 0
    bits = NOISES[checks.known("noise", numerics.noise, NOISES)]
    draws = 0 if bits is None else hash_noise(graph, bits)
    return Gradient(graph, honest.leaves, draws, honest, coarse)


class CompiledGradient:
    """Loss and gradients, compiled; the optimizer's part is the caller's.

    :param compiled: False to run the graph operation by operation.
    """

    def __init__(self, gradient: Gradient, tensors: Sequence[Tensor], compiled: bool = True) -> None:
        self.leaves = gradient.leaves
        self.draws = gradient.draws
        self.honest = gradient.honest
        self._gradient = gradient
        self._detached = [leaf.detach() for leaf in gradient.leaves]
        self._device = self._detached[0].device if self._detached else torch.device("cpu")
        self._verified = Verification(gradient)
        with forked():
            example = self._inputs(tensors, None)
            self._run: Compiled = build(gradient.graph, example) if compiled else interpret(gradient.graph)

    def valid(self) -> bool:
        """Whether the parameters are still those that it was compiled for."""
        return same_memory(self.leaves, self._detached)

    def _inputs(self, tensors: Sequence[Tensor], keys: Tensor | None) -> list[Tensor]:
        noise = self._gradient.keys(self._device) if keys is None else [keys]
        return [*self._detached, *tensors, *noise[: self.draws]]

    def __call__(self, tensors: Sequence[Tensor], keys: Tensor | None = None) -> list[Tensor]:
        """Return the loss and the gradients of the leaves.

        :param keys: of the noise [draws, 2]; from torch's generator where omitted.
        """
        inputs = self._inputs(tensors, keys)
        expected = self._verified.before(tensors, inputs[len(self.leaves) + len(tensors) :])
        loss, *gradients = self._run(inputs)
        self._verified.after(loss, expected)
        return [loss, *gradients]


class CompiledStep:
    """Loss, gradients and the update of Adam as one compiled function; nothing is read back from the device.

    Parameters and optimizer states are changed in place, so they stay up to date.

    :param gradient: the recorded loss.
    :param slots: one for each of its leaves.
    :param tensors: example arguments.
    :param clip_norm: largest norm of all gradients together.
    :param compiled: False to run the graph operation by operation.
    :raises NoCompiler: the compiler is missing or fails.
    """

    def __init__(
        self,
        gradient: Gradient,
        slots: Sequence[Slot],
        tensors: Sequence[Tensor],
        clip_norm: float | None = None,
        compiled: bool = True,
    ) -> None:
        self._adams = Adams(slots)
        self.leaves = gradient.leaves
        self.draws = gradient.draws
        self.honest = gradient.honest
        self._gradient = gradient
        self._verified = Verification(gradient)
        with forked():
            example = self._inputs(tensors, None)
        graph = record_update(whole_step(gradient, slots, clip_norm), example)
        with forked():
            fixed = len(self._adams.fixed)
            self._run: Compiled = build(graph, example, fixed) if compiled else interpret(graph)

    def valid(self) -> bool:
        """Whether parameters, states and settings of the optimizer are still those it was compiled for."""
        return self._adams.valid()

    def _inputs(self, tensors: Sequence[Tensor], keys: Tensor | None) -> list[Tensor]:
        noise = self._gradient.keys(self.leaves[0].device) if keys is None else [keys]
        return [*self._adams.fixed, self._adams.sizes(), *tensors, *noise[: self.draws]]

    def __call__(self, tensors: Sequence[Tensor], keys: Tensor | None = None) -> Tensor:
        """Take a step; return the loss, on the device.

        :param tensors: the arguments, of the shapes of the examples.
        :param keys: of the noise [draws, 2]; from torch's generator where omitted.
        """
        inputs = self._inputs(tensors, keys)
        expected = self._verified.before(tensors, inputs[len(inputs) - bool(self.draws) :])
        (loss,) = self._run(inputs)
        self._verified.after(loss, expected)
        return loss


class CompiledUpdate:
    """The update of Adam for gradients that come from elsewhere, as one compiled function.

    :param slots: one for each parameter.
    :param places: where the loss and the gradients will lie.
    :param clip_norm: largest norm of all gradients together.
    :param compiled: False to run the graph operation by operation.
    :raises NoCompiler: the compiler is missing or fails.
    """

    def __init__(
        self, slots: Sequence[Slot], places: Sequence[Tensor], clip_norm: float | None, compiled: bool
    ) -> None:
        self._adams = Adams(slots)
        self._fixed = [*self._adams.fixed, *places]
        example = [*self._fixed, self._adams.sizes()]
        graph = record_update(update_alone(slots, clip_norm), example)
        fixed = len(self._fixed)
        self._run: Compiled = build(graph, example, fixed) if compiled else interpret(graph)

    def valid(self) -> bool:
        """Whether parameters, states and settings of the optimizer are still those it was compiled for."""
        return self._adams.valid()

    def __call__(self) -> None:
        """Make the step of what lies in the places."""
        self._run([*self._fixed, self._adams.sizes()])


def record_update(step: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> GraphModule:
    """Return a step as one graph of its inputs; they stay as they are."""
    # On copies, so that recording takes no step.
    with failing_as(Unrecordable), undone(), torch.no_grad():
        copies = [tensor.clone() for tensor in inputs]
        return traced(step, *copies)


def whole_step(
    gradient: Gradient, slots: Sequence[Slot], clip_norm: float | None
) -> Callable[..., list[Tensor]]:
    """Return the function (leaves, states, sizes, tensors[, keys]) → [loss] that updates in place."""
    count = len(slots)
    fixed = (1 + STATES) * count
    change = update_alone(slots, clip_norm)

    def whole(*given: Tensor) -> list[Tensor]:
        return change(*given[:fixed], *gradient.graph(*given[:count], *given[fixed + 1 :]), given[fixed])

    return whole


def update_alone(slots: Sequence[Slot], clip_norm: float | None) -> Callable[..., list[Tensor]]:
    """Return the function (leaves, states, loss, gradients, sizes) → [loss] that updates in place."""
    count = len(slots)

    def change(*given: Tensor) -> list[Tensor]:
        leaves, flat = given[:count], given[count : (1 + STATES) * count]
        loss, *gradients, sizes = given[(1 + STATES) * count :]
        # A loss that is no number changes no weight.
        good = torch.isfinite(loss).all()
        gradients = [torch.where(good, gradient, 0.0) for gradient in gradients]
        sizes = torch.where(good, sizes, sizes.new_tensor([0.0, 0.0, 1.0]))
        if clip_norm is not None:
            gradients = clipped_together(gradients, clip_norm)
        states = [flat[i : i + STATES] for i in range(0, len(flat), STATES)]
        update(slots, leaves, states, gradients, sizes)
        return [loss]

    return change
