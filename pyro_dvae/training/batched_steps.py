"""Joint training steps of several models, compiled from a recording of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.engine import Unrecordable
from pyro_dvae.engine.alike import alike
from pyro_dvae.engine.batched import BatchedStep, ModelRecording, lift, require_same_program
from pyro_dvae.engine.gradient import constants
from pyro_dvae.engine.step import Gradient, record_for
from pyro_dvae.engine.verification import Recording
from pyro_dvae.errors import InputError
from pyro_dvae.training.many_state import ManyState
from pyro_dvae.training.noise_keys import NoiseKeysOfMany
from pyro_dvae.training.settings import Settings
from pyro_dvae.training.stacked import Member, stack


class BatchedSteps:
    """Steps on the stacked tensors of ``state``, compiled when a number of rows first occurs.

    ``seconds`` is the time that compiling took so far.

    :param keys: the keys of the models' noise.
    """

    def __init__(self, state: ManyState, settings: Settings, keys: NoiseKeysOfMany) -> None:
        self._state, self._settings, self._keys = state, settings, keys
        self._recordings: list[Recording] = []
        self._steps: dict[int, BatchedStep] = {}
        self._adam: list[tuple[Any, ...]] = []
        self._columns: Tensor | slice = slice(None)  # parameters with a gradient
        self.seconds = 0.0

    def refresh(self) -> None:
        """Discard the steps if a constant that they contain has changed, or what is frozen.

        Models that have stopped follow the others, because all have one recording.

        :raises InputError: something is frozen in some of the models only.
        """
        frees = [member.trained.free for member in self._state.members]
        stopped = self._state.stopped
        first = stopped.index(False) if False in stopped else 0
        for number, free in enumerate(frees):
            for name, one, other in zip(free, frees[first].values(), free.values(), strict=True):
                if stopped[number]:
                    other.requires_grad_(one.requires_grad)
                elif one.requires_grad != other.requires_grad:
                    raise InputError(
                        f"callbacks: expected the same frozen parameters in all models, which {name!r} of "
                        f"models {first} and {number} is not; train them separately by fit"
                    )
        adam = [each.frozen for each in self._state.updates[0].slots() or ()]
        if adam != self._adam or not all(each.surroundings.unchanged() for each in self._recordings):
            self._steps.clear()
            self._recordings.clear()
        self._adam = adam

    def take(self, batch: Sequence[Tensor], options: Tensor, position: int) -> Tensor:
        """Take a step of every model; return their losses [E].

        :param batch: the parts of a batch for each model, [E, B, ...].
        :param options: of Adam (:func:`.adam.step_options`), [E, trained parameters, 4].
        :param position: position of the batch in its epoch, which determines the noise.
        """
        rows = batch[0].shape[1]
        if rows not in self._steps:
            self._compile(batch)
        step = self._steps[rows]
        return step(batch, options[:, self._columns], self._keys_at(position, step.draws))

    def _keys_at(self, position: int, draws: int) -> Tensor:
        return self._keys.at(self._state.finished, position, draws)

    def _compile(self, batch: Sequence[Tensor]) -> None:
        began, progress, count = time.monotonic(), self._settings.progress, len(self._state.members)
        progress.note(f"compiling the training step of {count} models, batches of {batch[0].shape[1]} ...")
        try:
            self._steps[batch[0].shape[1]] = self._build(batch)
        except Unrecordable as error:
            raise InputError(
                f"pairs: these models cannot be trained side by side: {error}; train them by fit"
            ) from error
        took = time.monotonic() - began
        self.seconds += took
        progress.note(f"compiled in {took:.1f} s")

    def _build(self, batch: Sequence[Tensor]) -> BatchedStep:
        state = self._state
        recorded: list[Gradient] = []
        for number, member in enumerate(state.members):
            recorded.append(self._recorded(member, [x[number] for x in batch], recorded[:1]))
        first = recorded[0]
        self._recordings += [each.recording for each in recorded]
        built_in = [list(constants(each.graph).items()) for each in recorded]
        for number, other in enumerate(recorded[1:], start=1):
            require_same_program(first.graph, other.graph, f"pairs[{number}]")
        trained = state.members[0].trained
        own = {id(each): own for each, own in zip(trained.buffers().values(), state.buffers, strict=True)}
        leaves = [*zip(trained.parameters.values(), state.leaves, strict=True)]
        own |= {id(leaf): stacked for n, (leaf, stacked) in enumerate(leaves) if n not in state.free}
        names, lifted = [], []
        for position, (name, value) in enumerate(built_in[0]):
            values = [each[position][1] for each in built_in]
            if id(value) in own:
                names.append(name)
                lifted.append(own[id(value)])
            elif not all(torch.equal(value, other) for other in values[1:]):
                names.append(name)
                lifted.append(stack(values))
        lift(first.graph, names)
        # A parameter may get no gradient.
        free = list(trained.free.values())
        columns = [n for n, leaf in enumerate(free) if any(leaf is each for each in first.leaves)]
        some = len(columns) < len(free)
        self._columns = torch.tensor(columns, device=batch[0].device) if some else slice(None)
        slots = state.updates[0].slots([free[n] for n in columns])
        assert slots is not None
        chosen = [state.free[n] for n in columns]
        return BatchedStep(
            first,
            slots,
            [state.leaves[n] for n in chosen],
            [state.adam[n][0] for n in chosen],
            [moment for n in chosen for moment in state.adam[n][1:]],
            lifted,
            batch,
            self._keys_at(0, first.draws),
            self._settings.clip_norm,
            [
                ModelRecording(each.recording, member.with_store)
                for each, member in zip(recorded, state.members, strict=True)
            ],
            state.to_models,
        )

    def _recorded(self, member: Member, batch: list[Tensor], first: list[Gradient]) -> Gradient:
        """Return the gradient of a model, which is only recorded if it is not like the ``first`` one's."""

        def loss_and_grads(*batch: Tensor) -> Tensor:
            loss = member.loss(*batch)
            if loss.requires_grad:
                loss.backward()
            return loss

        leaves = list(member.trained.free.values())
        programs = (member.model, member.guide, member.bound)
        with member.with_store(), member.trained.without_frozen_gradients():
            if first:
                among = list(self._state.members[0].trained.free.values())
                found = alike(first[0], among, loss_and_grads, leaves, batch, programs)
                if found is not None:
                    return found
            return record_for(loss_and_grads, leaves, batch, self._settings.numerics, programs)
