"""Checks whether a recording stands for its program, before its first use and during training.

A recording freezes everything that the program reads from its surroundings. It is made and checked in five
steps:

1. Record the loss. The recorder refuses what it can detect directly: reads of tensor values, draws from
   Python's random streams, gradients for other tensors, in-place changes of arguments.
2. Run the program under observation. This finds the places that it may have read
   (:mod:`pyro_dvae.engine.surroundings`), and a loss and gradients that the recording must reproduce.
3. Record the program again, on other rows and other random numbers. If a number differs between the
   recordings, the program changes it, or reads it from the data in an undetected way.
4. Refuse changes of those places by the runs, and undo them.
5. Repeat the comparison of step 2 after some of the training steps (:class:`Verification`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.engine.following import BuiltIn, Unrecordable, failing_as
from pyro_dvae.engine.gradient import LossAndGrads, difference, evaluate, record_gradient
from pyro_dvae.engine.observing import Observation, observed, undone
from pyro_dvae.engine.surroundings import Surroundings
from pyro_dvae.errors import CompiledStepError
from pyro_dvae.random_state import forked

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # errors are usually 0: the operations are the same
_COARSE = 0.02  # for other types
_OTHER_SEED = 20_151_125


@dataclass(frozen=True)
class Recording:
    """A recorded loss before it is rewritten for speed, with its program.

    :param graph: (leaves, tensors) → [loss, gradients]; it draws the numbers that the program would draw.
    :param leaves: the parameters that get a gradient.
    :param loss_and_grads: the program.
    :param surroundings: the values that the program has read.
    :param numbers: the Python numbers that became constants.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]
    loss_and_grads: LossAndGrads
    surroundings: Surroundings
    numbers: tuple[BuiltIn, ...]

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Run program and recording on the same random numbers; describe their difference, or return None."""
        with self.surroundings.restored():
            expected = evaluate(self.loss_and_grads, self.leaves, tensors)
            wrong = unlike(self.graph, self.leaves, tensors, expected)
            try:
                self.surroundings.refuse_changes()  # accepts objects that the program replaces
            except Unrecordable as error:
                return str(error)
        return wrong

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Record again; describe how the program differs from its recording, or return None."""
        try:
            found = record_gradient(self.loss_and_grads, self.leaves, tensors)
        except Unrecordable as error:
            return str(error)
        return difference(self.graph, found.graph)


def record_twice(
    loss_and_grads: LossAndGrads,
    leaves: Sequence[Tensor],
    tensors: Sequence[Tensor],
    programs: Sequence[Any],
    observation: Observation | None = None,
) -> Recording:
    """Record a loss and its gradients, and check that the recording stands for the program.

    :param loss_and_grads: function of the tensors that returns the loss and adds to the leaves' gradients.
    :param leaves: unconstrained parameters.
    :param tensors: example arguments.
    :param programs: model, guide, loss, and objects passed to them.
    :param observation: observation of an earlier run, which shows what to restore after the recordings.
    :raises Unrecordable: the program cannot be recorded, or changes what it depends on; the message says
        where.
    """
    with Surroundings(programs, observation).restored():
        first = record_gradient(loss_and_grads, leaves, tensors)
        with failing_as(Unrecordable):
            with observed() as seen:
                evaluate(loss_and_grads, first.leaves, tensors)
            surroundings = Surroundings(programs, seen, first.leaves)
        with forked(_OTHER_SEED):
            second = record_gradient(loss_and_grads, leaves, _other_rows(tensors))
        changed = difference(first.graph, second.graph)
        wrong = unlike(first.graph, first.leaves, tensors, evaluate(loss_and_grads, first.leaves, tensors))
        surroundings.refuse_changes()
        if changed is not None or len(first.leaves) != len(second.leaves):
            raise Unrecordable(f"the program computes something different in every run: {changed}")
        if wrong is not None:
            raise Unrecordable(wrong)
    return Recording(first.graph, first.leaves, loss_and_grads, surroundings, first.numbers)


def unlike(
    graph: GraphModule, leaves: Sequence[Tensor], tensors: Sequence[Tensor], expected: Sequence[Tensor]
) -> str | None:
    """Describe how a recording differs from the loss and gradients of a run, or return None.

    :param graph: the recording; it draws the random numbers that the run drew.
    :param expected: the results of the run, on the same random stream.
    """
    with undone(), torch.no_grad():
        # Copies, because results that were written in place are undone, too.
        found = [each.clone() for each in graph(*[leaf.detach() for leaf in leaves], *tensors)]
    if not close(found[0], expected[0]):
        return (
            f"the recorded step gives a loss of {float(found[0]):.8g}, the program {float(expected[0]):.8g}"
        )
    for leaf, a, b in zip(leaves, found[1:], expected[1:], strict=True):
        if not close(a, b):
            norms = (float(value.double().norm()) for value in (a, b))
            return (
                "the gradient of a parameter of shape {} has norm {:.8g} in the recorded step, {:.8g} in the "
                "program"
            ).format(tuple(leaf.shape), *norms)
    return None


def close(found: Tensor, expected: Tensor, tolerance: float = 0.0) -> bool:
    """Whether two results differ only by rounding, in norm; NaN equals NaN."""
    if expected.is_complex():
        found, expected = torch.view_as_real(found), torch.view_as_real(expected)
    allowed = max(tolerance, _TOLERANCES.get(expected.dtype, _COARSE))
    error, scale = (found.double() - expected.double()).norm(), expected.double().norm()
    finite = bool(torch.isfinite(error))
    return (
        float(error) <= allowed * float(scale) + 1e-3 * allowed if finite else not bool(torch.isfinite(scale))
    )


def _other_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return valid arguments with other values: rows in another order, some repeated; smaller numbers."""
    others = []
    for tensor in tensors:
        if tensor.dim() and len(tensor) > 1:
            rows = torch.arange(len(tensor) - 1, -1, -1, device=tensor.device)
            rows[: len(rows) // 2] = rows[0]
            others.append(tensor.index_select(0, rows))
        else:
            others.append(tensor * 0.5 if tensor.is_floating_point() and not tensor.dim() else tensor)
    return others


_SHARE = 0.001  # of the time since the recording
_COMPILED, _ROUNDED = 1e-3, 0.05  # allowed difference of compiled code, and of rounded products


class Compared(Protocol):
    """A recorded loss and its program: :class:`pyro_dvae.engine.step.Gradient`, or several of them."""

    @property
    def coarse(self) -> bool:
        """Whether products are rounded."""

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Describe how program and recording differ on the same random numbers, or return None."""

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Describe how the program differs from its recording, or return None."""

    def loss(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Return the loss of the recording, without side effects."""


class Verification:
    """Compares a compiled step with its program at steps 1, 10, 100, 1,000, and later if time allows.

    The program runs on the current data and parameters, with the random numbers that the recorded step would
    draw. Random streams, gradients, parameters and buffers are restored. Apart from the first four,
    comparisons take at most 0.1 % of the time.

    :param compared: the recorded loss and its program.
    """

    def __init__(self, compared: Compared) -> None:
        self._compared = compared
        self._began = time.perf_counter()
        self._steps, self._next, self._spent, self._last = 0, 1, 0.0, 0.0

    def _due(self) -> bool:
        self._steps += 1
        if self._steps >= self._next:
            self._next = 10 * self._next if self._next < 1000 else sys.maxsize
            return True
        if self._steps % 100:
            return False
        elapsed = time.perf_counter() - self._began
        return self._last > 0 and self._spent + self._last < _SHARE * elapsed

    def before(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor | None:
        """Compare if it is due, and return the loss that the compiled step must give.

        :param tensors: arguments of the step.
        :param keys: keys of its noise, if any.
        :raises CompiledStepError: the program gives other values.
        """
        if not self._due():
            return None
        began = time.perf_counter()
        # The first step was compared when it was recorded.
        wrong = self._compared.disagreement(tensors) if self._steps > 1 else None
        if wrong is not None:
            raise self._error(wrong, self._compared.change(tensors))
        loss = self._compared.loss(tensors, keys)
        self._last = time.perf_counter() - began
        self._spent += self._last
        return loss

    def after(self, loss: Tensor, expected: Tensor | None) -> None:
        """Compare the loss (or losses) of the compiled step with what :meth:`before` returned."""
        if expected is None:
            return
        allowed = _ROUNDED if self._compared.coarse else _COMPILED
        for found, wanted in zip(loss.flatten(), expected.flatten(), strict=True):
            if not close(found, wanted, allowed):
                losses = f"a loss of {float(found):.8g}, its recording {float(wanted):.8g}"
                raise self._error(f"the compiled step gives {losses}", None)

    def _error(self, wrong: str, change: str | None) -> CompiledStepError:
        what = "" if change is None else f" (recorded: {change})"
        return CompiledStepError(
            f"step {self._steps} of a compiled loss: {wrong}{what}; something that the program depends on "
            "has changed undetected: use pyro.infer.SVI, or fit with compile=False"
        )
