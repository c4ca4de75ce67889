"""One joint step of several models of one structure: the recorded step of one of them, batched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.fx import GraphModule

from pyro_dvae.engine.adam import OPTIONS, Slot, StepSizes
from pyro_dvae.engine.compiler import Compiled, build
from pyro_dvae.engine.following import Unrecordable, failing_as
from pyro_dvae.engine.gradient import difference, drop_unused, traced
from pyro_dvae.engine.hashed_noise import remaining_draws
from pyro_dvae.engine.observing import undone
from pyro_dvae.engine.step import Gradient, whole_step
from pyro_dvae.engine.verification import Recording, Verification
from pyro_dvae.errors import InputError


def lift(graph: GraphModule, names: Sequence[str]) -> None:
    """Turn constants of a graph into its last inputs, in place and in the order of ``names``."""
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
    """Refuse a graph with other operations; its constants may have other values."""
    odd = difference(first, other, with_tensors=False)
    if odd is not None:
        raise InputError(
            f"{which}: expected a program like the first one's (the same networks, corruption and bound; "
            f"seeds, weights, learning rates and levels held in tensors may differ), got {odd}"
        )


@dataclass(frozen=True)
class ModelRecording:
    """The recording of one of the models.

    :param recording: its recorded program.
    :param scope: returns a context in which Pyro's param store is the model's.
    """

    recording: Recording
    scope: Callable[[], AbstractContextManager[Any]]


class _Batched:
    """The programs of several models, and the first model's graph with the tensors of all.

    :param copy_to_models: copies the stacked parameters and buffers into the models, where programs read
        them.
    """

    def __init__(
        self,
        gradient: Gradient,
        leaves: Sequence[Tensor],
        lifted: Sequence[Tensor],
        recordings: Sequence[ModelRecording],
        copy_to_models: Callable[[], None],
    ) -> None:
        self.coarse = gradient.coarse
        self._graph, self._leaves, self._lifted = gradient.graph, leaves, lifted
        self._recordings, self._copy_to_models = recordings, copy_to_models

    def _first(
        self, look: Callable[[Recording, list[Tensor]], str | None], batch: Sequence[Tensor]
    ) -> str | None:
        self._copy_to_models()
        for number, model in enumerate(self._recordings):
            with model.scope():
                found = look(model.recording, [x[number] for x in batch])
            if found is not None:
                return f"pairs[{number}]: {found}"
        return None

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Compare every model with its recording; describe the first difference, or return None."""
        return self._first(Recording.disagreement, tensors)

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Describe how the first program that has changed differs from its recording, or return None."""
        return self._first(Recording.change, tensors)

    def loss(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Return the losses [E] of the graph, model by model."""
        given = [*self._leaves, *tensors, *keys, *self._lifted]
        with undone(), torch.no_grad():
            return torch.stack([self._graph(*(t[n] for t in given))[0] for n in range(len(self._recordings))])


class BatchedStep:
    """Loss, gradients and Adam's update of E models as one compiled function that works in place.

    :param gradient: the recorded loss of one model, its varying constants lifted to its last inputs.
    :param slots: the optimizer's settings for one model.
    :param leaves: the parameters, each [E, ...].
    :param counts: steps taken, [E] for each parameter.
    :param moments: means and mean squares of each parameter's gradients, [E, ...].
    :param lifted: the lifted constants, each [E, ...].
    :param batch: example data, each [E, ...].
    :param keys: example keys of the noise, [E, draws, 2].
    :param clip_norm: largest joint norm of all gradients of a model.
    :param recordings: the models' programs, with which some steps are compared.
    :param copy_to_models: copies the stacked parameters and buffers into the models.
    :raises Unrecordable: the program has random draws that cannot be batched.
    """

    def __init__(
        self,
        gradient: Gradient,
        slots: Sequence[Slot],
        leaves: Sequence[Tensor],
        counts: Sequence[Tensor],
        moments: Sequence[Tensor],
        lifted: Sequence[Tensor],
        batch: Sequence[Tensor],
        keys: Tensor,
        clip_norm: float | None,
        recordings: Sequence[ModelRecording],
        copy_to_models: Callable[[], None],
    ) -> None:
        # A plate with subsample_size= draws places of rows, which a program that has its rows does not read.
        drop_unused(gradient.graph, keep_draws=False)
        left = remaining_draws(gradient.graph)
        if left:
            raise Unrecordable(f"{left[0]} draws from torch's generator, which cannot be batched")
        self.draws = gradient.draws
        self._verified = Verification(_Batched(gradient, leaves, lifted, recordings, copy_to_models))
        wide = any(leaf.dtype == torch.float64 for leaf in leaves)
        self._sizes = StepSizes(counts, torch.float64 if wide else torch.float32)
        self._fixed = [*leaves, *moments, *lifted]
        options = torch.zeros(len(leaves[0]), len(slots), OPTIONS, dtype=torch.float64, device=keys.device)
        example = self._inputs(self._sizes(options), batch, keys)
        step = whole_step(gradient, slots, clip_norm)
        before, after = len(leaves) + len(moments), len(self._fixed)

        def one(*given: Tensor) -> tuple[Tensor, ...]:
            return tuple(step(*given[:before], *given[after:], *given[before:after]))

        with failing_as(Unrecordable), torch.no_grad():
            graph = traced(vmap(one), *[tensor.clone() for tensor in example])
        sized = partial(self._sizes.replace, len(self._fixed))
        self._run: Compiled = build(graph, example, len(self._fixed), sized)

    def _inputs(self, options: Tensor, batch: Sequence[Tensor], keys: Tensor) -> list[Tensor]:
        return [*self._fixed, options, *batch, *([keys] if self.draws else [])]

    def __call__(self, batch: Sequence[Tensor], options: Tensor, keys: Tensor) -> Tensor:
        """Take a step of every model; return their losses [E].

        :param batch: the parts of a batch for each model, [E, N, ...].
        :param options: of Adam (:func:`.adam.step_options`), [E, slots, 4].
        :param keys: keys of the noise, [E, draws, 2].
        :raises CompiledStepError: a model's program gives other values.
        """
        expected = self._verified.before(batch, [keys] if self.draws else [])
        losses = self._run(self._inputs(options, batch, keys))[0]
        self._verified.after(losses, expected)
        return losses
