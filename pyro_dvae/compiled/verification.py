"""The comparison of a compiled step with its program, now and then while it is used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from pyro_dvae.compiled.honesty import close
from pyro_dvae.errors import CompiledStepError

_SHARE = 0.001  # of the time since the recording; looking for changes takes more
_COMPILED, _ROUNDED = 1e-3, 0.05  # allowed difference of compiled code; where products are rounded


class Compared(Protocol):
    """A recorded loss beside its program: :class:`pyro_dvae.compiled.step.Gradient`, or several of them."""

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
    """Compares a compiled step with the program at its steps 1, 10, 100, ..., and further while time allows.

    The program is run on the present data and parameters, with the random numbers that the recorded step
    would draw; random streams, gradients, parameters and buffers are afterwards as before. All comparisons
    together take at most 0.1 % of the time, but for those at powers of ten.

    :param compared: the recorded loss, and its program.
    """

    def __init__(self, compared: Compared) -> None:
        self._compared = compared
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
            "has changed unseen: use pyro.infer.SVI, or fit with compile=False"
        )
