"""The comparison of a compiled step with its program, now and then while it is used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_dvae.compiled.honesty import close
from pyro_dvae.errors import CompiledStepError
from pyro_dvae.recording.undoing import undone

if TYPE_CHECKING:
    from pyro_dvae.compiled.step import Gradient

_SHARE = 0.01  # of the time since the recording
_COMPILED, _ROUNDED = 1e-3, 0.05  # allowed difference of compiled code; where products are rounded


class Verification:
    """Compares a compiled step with the program at its steps 1, 10, 100, ..., and further while time allows.

    The program is run on the present data and parameters, with the random numbers that the recorded step
    would draw; random streams, gradients, parameters and buffers are afterwards as before. All comparisons
    together take at most a hundredth of the time, but for those at powers of ten.

    :param gradient: the recorded loss, as it is and as it is compiled.
    """

    def __init__(self, gradient: Gradient) -> None:
        self._gradient = gradient
        self._began = time.perf_counter()
        self._steps, self._next, self._spent, self._last = 0, 1, 0.0, 0.0

    def _due(self) -> bool:
        self._steps += 1
        if self._steps >= self._next:
            self._next *= 10
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
        gradient = self._gradient
        # At first it has just been recorded, and compared.
        wrong = gradient.honest.disagreement(tensors) if self._steps > 1 else None
        if wrong is not None:
            raise self._error(wrong, gradient.honest.change(tensors))
        with undone(), torch.no_grad():
            loss: Tensor = gradient.graph(*[leaf.detach() for leaf in gradient.leaves], *tensors, *keys)[0]
        self._last = time.perf_counter() - began
        self._spent += self._last
        return loss

    def after(self, loss: Tensor, expected: Tensor | None) -> None:
        """Compare the loss of the compiled step with what :meth:`before` returned."""
        if expected is not None and not close(
            loss, expected, _ROUNDED if self._gradient.coarse else _COMPILED
        ):
            raise self._error(
                f"the compiled step gives a loss of {float(loss):.8g}, its recording {float(expected):.8g}",
                None,
            )

    def _error(self, wrong: str, change: str | None) -> CompiledStepError:
        what = "" if change is None else f" (recorded: {change})"
        return CompiledStepError(
            f"step {self._steps} of a compiled loss: {wrong}{what}; something that the program depends on "
            "has changed unseen: use pyro.infer.SVI, or fit with compile=False"
        )
