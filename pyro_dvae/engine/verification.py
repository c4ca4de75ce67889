"""When a recording may be used again: what it depends on is known, and it is compared with its program.

A recording freezes what the program took from its surroundings. It is made in five parts:

1. The loss is recorded. The recorder refuses what it can see at once: values that are read back, draws from
   Python's random streams, gradients that go elsewhere, arguments that are changed in place.
2. The program is run as it is, while someone looks on: that gives the places that it may have read
   (:mod:`pyro_dvae.engine.surroundings`), and a loss and gradients that those of the recording must equal.
3. It is recorded again: later, on other rows and other random numbers. A number that differs between the two
   is one that the program moves, or has read from the data in a way that nobody saw.
4. What the runs have changed among those places is refused, and put back.
5. Later, now and then, the same comparison is made again (:class:`Verification`).
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

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # the operations are the same: most often 0
_COARSE = 0.02  # in other types
_OTHER_SEED = 20_151_125


@dataclass(frozen=True)
class Honest:
    """A recorded loss as it is, before it is rewritten for speed, and where it came from.

    :param graph: (leaves, tensors) → [loss, gradients]; it draws the numbers that the program would draw.
    :param leaves: the parameters that get a gradient.
    :param loss_and_grads: the program.
    :param surroundings: what the program has read, as it was.
    :param numbers: those that are built in.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]
    loss_and_grads: LossAndGrads
    surroundings: Surroundings
    numbers: tuple[BuiltIn, ...]

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Run program and recording on the same random numbers; return in words how they differ, or None."""
        with self.surroundings.put_back():
            wrong = _disagreement(self.loss_and_grads, self.graph, self.leaves, tensors)
            try:
                self.surroundings.settle()  # what the program replaces is another object now
            except Unrecordable as error:
                return str(error)
        return wrong

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Record again; return in words what the program now computes in place of what, or None."""
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
) -> Honest:
    """Record a loss and its gradients, and make sure that the recording stands for the program.

    :param loss_and_grads: function of the tensors that returns the loss and adds to the leaves' gradients.
    :param leaves: unconstrained parameters.
    :param tensors: example arguments.
    :param programs: model, guide, loss, and other objects that are given to them.
    :param observation: of an earlier run, which shows what may have to be put back after the recordings.
    :raises Unrecordable: the program cannot be recorded, or changes what it depends on; says where.
    """
    with Surroundings(programs, observation).put_back():
        first = record_gradient(loss_and_grads, leaves, tensors)
        with failing_as(Unrecordable):
            with observed() as seen:
                evaluate(loss_and_grads, first.leaves, tensors)
            surroundings = Surroundings(programs, seen, first.leaves)
        with forked(_OTHER_SEED):
            second = record_gradient(loss_and_grads, leaves, _other_rows(tensors))
        changed = difference(first.graph, second.graph)
        wrong = _disagreement(loss_and_grads, first.graph, first.leaves, tensors)
        surroundings.settle()
        if changed is not None or len(first.leaves) != len(second.leaves):
            raise Unrecordable(f"the program computes something different in every run: {changed}")
        if wrong is not None:
            raise Unrecordable(wrong)
    return Honest(first.graph, first.leaves, loss_and_grads, surroundings, first.numbers)


def _disagreement(
    loss_and_grads: LossAndGrads, graph: GraphModule, leaves: Sequence[Tensor], tensors: Sequence[Tensor]
) -> str | None:
    expected = evaluate(loss_and_grads, leaves, tensors)
    with undone(), torch.no_grad():
        found = list(graph(*[leaf.detach() for leaf in leaves], *tensors))
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
    """Whether two results differ by rounding at most, by norm; NaN equals NaN."""
    allowed = max(tolerance, _TOLERANCES.get(expected.dtype, _COARSE))
    error, scale = (found.double() - expected.double()).norm(), expected.double().norm()
    finite = bool(torch.isfinite(error))
    return (
        float(error) <= allowed * float(scale) + 1e-3 * allowed if finite else not bool(torch.isfinite(scale))
    )


def _other_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return valid arguments with other values: rows in another order, some twice; smaller numbers."""
    others = []
    for tensor in tensors:
        if tensor.dim() and len(tensor) > 1:
            rows = torch.arange(len(tensor) - 1, -1, -1, device=tensor.device)
            rows[: len(rows) // 2] = rows[0]
            others.append(tensor.index_select(0, rows))
        else:
            others.append(tensor * 0.5 if tensor.is_floating_point() and not tensor.dim() else tensor)
    return others


_SHARE = 0.001  # of the time since the recording; looking for changes takes more
_COMPILED, _ROUNDED = 1e-3, 0.05  # allowed difference of compiled code; where products are rounded


class Compared(Protocol):
    """A recorded loss beside its program: :class:`pyro_dvae.engine.step.Gradient`, or several of them."""

    @property
    def coarse(self) -> bool:
        """Whether products are rounded."""

    def disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Return in words how program and recording differ on the same random numbers, or None."""

    def change(self, tensors: Sequence[Tensor]) -> str | None:
        """Return in words what the program now computes in place of what, or None."""

    def loss(self, tensors: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Return the loss of the recording, which changes nothing."""


class Verification:
    """Compares a compiled step with its program at steps 1, 10, 100, 1,000, and further while time allows.

    The program is run on the present data and parameters, with the random numbers that the recorded step
    would draw; random streams, gradients, parameters and buffers are afterwards as before. All comparisons
    together take at most 0.1 % of the time, but for those four.

    :param compared: the recorded loss, and its program.
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
        """Compare where it is due; return the loss that the compiled step must give.

        :param tensors: arguments of the step.
        :param keys: of its noise, or none.
        :raises CompiledStepError: the program gives other numbers.
        """
        if not self._due():
            return None
        began = time.perf_counter()
        # At first it has just been recorded, and compared.
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
