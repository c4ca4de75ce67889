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
from pyro_dvae.engine.adam import IDLE, Adams, Slot, clipped_together, same_memory, update
from pyro_dvae.engine.compiler import Compiled, build, interpret
from pyro_dvae.engine.following import Unrecordable, failing_as
from pyro_dvae.engine.gradient import LossAndGrads, traced
from pyro_dvae.engine.hashed_noise import Bits, draw_keys, hash_noise, hashed_bits, threefry_bits
from pyro_dvae.engine.kernels import fuse_bernoulli_sums, replace_log1p, use_bfloat16_products
from pyro_dvae.engine.observing import Observation, undone
from pyro_dvae.engine.verification import Recording, Verification, record_twice
from pyro_dvae.random_state import forked

NOISES: dict[str, Bits | None] = {"torch": None, "hashed": hashed_bits, "threefry": threefry_bits}
MOMENTS = 2  # tensors of Adam for a parameter: mean and mean square of its gradients


@dataclass(frozen=True)
class Numerics:
    """How a recorded step computes.

    :param noise: the source of random numbers. "torch": its generator, as in an ordinary step; "hashed": a
        hash of counters (:mod:`pyro_dvae.engine.hashed_noise`); "threefry": JAX's generator. The
        distributions are the same, the numbers are not, and "hashed" is the fastest.
    :param bfloat16: round only the factors of matrix products to bfloat16.
    """

    noise: str = "torch"
    bfloat16: bool = False


@dataclass(frozen=True)
class Gradient:
    """A recorded loss with its gradients, rewritten for its numerics.

    :param graph: (leaves, tensors[, keys]) → [loss, gradients].
    :param leaves: the parameters that get a gradient, in the order of the gradients.
    :param draws: number of keys of a run; if 0, the graph has no input for them.
    :param recording: the recorded program, and what it depends on.
    :param coarse: whether its products are rounded.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]
    draws: int
    recording: Recording
    coarse: bool = False

    def keys(self, device: torch.device) -> list[Tensor]:
        """Return new keys from torch's generator as a list of the last input, or an empty list."""
        return [draw_keys(self.draws, device)] if self.draws else []

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Run program and recording on the same random numbers; describe their difference, or return None."""
        return self.recording.disagreement(tensors)

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Describe how the program differs from its recording, or return None."""
        return self.recording.change(tensors)

    def loss(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Return the loss of the recording, without side effects."""
        with undone(), torch.no_grad():
            loss: Tensor = self.graph(*[leaf.detach() for leaf in self.leaves], *tensors, *keys)[0]
            return loss.clone()  # a loss that was written in place is undone, too


def record_for(
    loss_and_grads: LossAndGrads,
    leaves: Sequence[Tensor],
    tensors: Sequence[Tensor],
    numerics: Numerics,
    programs: Sequence[Any],
    observation: Observation | None = None,
) -> Gradient:
    """Record a loss and rewrite it.

    :param programs: the model, guide and bound that ``loss_and_grads`` calls, and objects passed to them.
    :param observation: observation of an earlier run, if any.
    :raises Unrecordable: see :func:`pyro_dvae.engine.verification.record_twice`.
    """
    recording = record_twice(loss_and_grads, leaves, tensors, programs, observation)
    graph = GraphModule(recording.graph, copy.deepcopy(recording.graph.graph))
    fuse_bernoulli_sums(graph)
    replace_log1p(graph)
    coarse = numerics.bfloat16 and use_bfloat16_products(graph) > 0
    bits = NOISES[checks.known("noise", numerics.noise, NOISES)]
    draws = 0 if bits is None else hash_noise(graph, bits)
    return Gradient(graph, recording.leaves, draws, recording, coarse)


class CompiledGradient:
    """Compiled loss and gradients; the caller updates the parameters.

    :param compiled: False to run the graph operation by operation.
    """

    def __init__(self, gradient: Gradient, tensors: Sequence[Tensor], compiled: bool = True) -> None:
        self.leaves = gradient.leaves
        self.draws = gradient.draws
        self.recording = gradient.recording
        self._gradient = gradient
        self._detached = [leaf.detach() for leaf in gradient.leaves]
        self._device = self._detached[0].device if self._detached else torch.device("cpu")
        self._verified = Verification(gradient)
        with forked():
            example = self._inputs(tensors, None)
            self._run: Compiled = build(gradient.graph, example) if compiled else interpret(gradient.graph)

    def valid(self) -> bool:
        """Whether it was compiled for the current parameters."""
        return same_memory(self.leaves, self._detached)

    def _inputs(self, tensors: Sequence[Tensor], keys: Tensor | None) -> list[Tensor]:
        noise = self._gradient.keys(self._device) if keys is None else [keys]
        return [*self._detached, *tensors, *noise[: self.draws]]

    def __call__(self, tensors: Sequence[Tensor], keys: Tensor | None = None) -> list[Tensor]:
        """Return the loss and the gradients of the leaves.

        :param keys: keys of the noise [draws, 2]; by default from torch's generator.
        """
        inputs = self._inputs(tensors, keys)
        expected = self._verified.before(tensors, inputs[len(self.leaves) + len(tensors) :])
        loss, *gradients = self._run(inputs)
        self._verified.after(loss, expected)
        return [loss, *gradients]


class CompiledStep:
    """Loss, gradients and Adam's update as one compiled function that reads nothing back from the device.

    It changes parameters and optimizer states in place.

    :param gradient: the recorded loss.
    :param slots: one for each of its leaves.
    :param tensors: example arguments.
    :param clip_norm: largest joint norm of all gradients.
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
        self.recording = gradient.recording
        self._gradient = gradient
        self._verified = Verification(gradient)
        with forked():
            example = self._inputs(self._adams.example(), tensors, None)
        graph = record_update(whole_step(gradient, slots, clip_norm), example)
        with forked():
            fixed, before = len(self._adams.fixed), self._adams.before
            self._run: Compiled = (
                build(graph, example, fixed, before) if compiled else interpret(graph, before)
            )

    def valid(self) -> bool:
        """Whether parameters, states and settings of the optimizer are still those it was compiled for."""
        return self._adams.valid()

    def _inputs(
        self, first: Sequence[Tensor], tensors: Sequence[Tensor], keys: Tensor | None
    ) -> list[Tensor]:
        noise = self._gradient.keys(self.leaves[0].device) if keys is None else [keys]
        return [*first, *tensors, *noise[: self.draws]]

    def __call__(self, tensors: Sequence[Tensor], keys: Tensor | None = None) -> Tensor:
        """Take a step; return the loss on the device.

        :param tensors: the arguments, with the shapes of the examples.
        :param keys: keys of the noise [draws, 2]; by default from torch's generator.
        """
        inputs = self._inputs(self._adams.given(), tensors, keys)
        expected = self._verified.before(tensors, inputs[len(inputs) - bool(self.draws) :])
        (loss,) = self._run(inputs)
        self._adams.advance()
        self._verified.after(loss, expected)
        return loss


class CompiledUpdate:
    """Adam's update for given gradients, as one compiled function.

    :param slots: one for each parameter.
    :param places: memory of the loss and the gradients.
    :param clip_norm: largest joint norm of all gradients.
    :param compiled: False to run the graph operation by operation.
    :raises NoCompiler: the compiler is missing or fails.
    """

    def __init__(
        self, slots: Sequence[Slot], places: Sequence[Tensor], clip_norm: float | None, compiled: bool
    ) -> None:
        self._adams = Adams(slots, places)
        example = self._adams.example()
        graph = record_update(update_alone(slots, clip_norm), example)
        fixed, before = len(self._adams.fixed), self._adams.before
        self._run: Compiled = build(graph, example, fixed, before) if compiled else interpret(graph, before)

    def valid(self) -> bool:
        """Whether parameters, states and settings of the optimizer are still those it was compiled for."""
        return self._adams.valid()

    def __call__(self) -> None:
        """Take the step for the gradients in the places."""
        self._run(self._adams.given())
        self._adams.advance()


def record_update(step: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> GraphModule:
    """Record a step as one graph, on copies of its inputs, so that recording takes no step."""
    with failing_as(Unrecordable), undone(), torch.no_grad():
        copies = [tensor.clone() for tensor in inputs]
        return traced(step, *copies)


def whole_step(
    gradient: Gradient, slots: Sequence[Slot], clip_norm: float | None
) -> Callable[..., list[Tensor]]:
    """Return the function (leaves, moments, sizes, tensors[, keys]) → [loss] that updates in place."""
    count = len(slots)
    fixed = (1 + MOMENTS) * count
    change = update_alone(slots, clip_norm)

    def whole(*given: Tensor) -> list[Tensor]:
        return change(*given[:fixed], *gradient.graph(*given[:count], *given[fixed + 1 :]), given[fixed])

    return whole


def update_alone(slots: Sequence[Slot], clip_norm: float | None) -> Callable[..., list[Tensor]]:
    """Return the function (leaves, moments, loss, gradients, sizes) → [loss] that updates in place."""
    count = len(slots)

    def change(*given: Tensor) -> list[Tensor]:
        leaves, flat = given[:count], given[count : (1 + MOMENTS) * count]
        loss, *gradients, sizes = given[(1 + MOMENTS) * count :]
        # A non-finite loss changes no parameter.
        good = torch.isfinite(loss).all()
        gradients = [torch.where(good, gradient, 0.0) for gradient in gradients]
        sizes = torch.where(good, sizes, sizes.new_tensor(IDLE))
        if clip_norm is not None:
            gradients = clipped_together(gradients, clip_norm)
        moments = [flat[i : i + MOMENTS] for i in range(0, len(flat), MOMENTS)]
        update(slots, leaves, moments, gradients, sizes)
        return [loss]

    return change
