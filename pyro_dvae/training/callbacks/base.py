"""The base class of callbacks, and what they see of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_dvae.errors import InputError, shown
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History

HOOKS = ("start", "step", "epoch", "checkpoint", "end")


@dataclass
class Running:
    """A run as its callbacks see it.

    :param epochs: the epochs in all.
    :param validates: whether it has a validation bound.
    :param number: of the model among several (from 0); None if it is the only one.
    :param step: the steps taken so far, of all epochs.
    :param reason: why it is to stop; None to go on.
    """

    epochs: int
    validates: bool
    _history: Callable[[], History] = field(repr=False)
    _fitted: Callable[[], Fitted] = field(repr=False)
    number: int | None = None
    step: int = 0
    reason: str | None = None
    _loss: tuple[Tensor | float, int] | None = None

    @property
    def history(self) -> History:
        """The finished epochs: bounds (nats per observation), learning rates, seconds."""
        return self._history()

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.history.epochs)

    @property
    def loss(self) -> float:
        """The loss of the last step (nats per observation)."""
        if self._loss is None or not self._loss[1]:
            return float("nan")
        return float(self._loss[0]) / self._loss[1]

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The unconstrained parameters by name, live."""
        return self.fitted().trained.parameters

    def fitted(self) -> Fitted:
        """Return the pair as it now is, with its verbs (``encode``, ``reconstruct``, ...)."""
        return self._fitted()

    def stop(self, reason: str = "asked by a callback") -> None:
        """End the run after the present epoch, as if it were the last."""
        self.reason = reason

    def note(self, loss: Tensor | float, rows: int, steps: int = 1) -> None:
        """Take note of steps; ``loss`` is the sum over the rows of the last (nats)."""
        self.step, self._loss = self.step + steps, (loss, rows)


class Callback:
    """Base class of what is called while a training runs. Every hook gets the run; none need be overridden.

    Callbacks run apart from the random streams of training, so they cannot change what it computes. What
    :meth:`state_dict` returns lies in the checkpoint, and a resumed run gives it back before ``start``. Of
    several processes, the first calls them.
    """

    def start(self, run: Running) -> None:
        """Before the first epoch, also of a resumed run."""

    def step(self, run: Running) -> None:
        """After every step."""

    def epoch(self, run: Running) -> None:
        """After every epoch and its validation, before the checkpoint is saved."""

    def checkpoint(self, run: Running) -> None:
        """After the checkpoint is saved."""

    def end(self, run: Running) -> None:
        """At the end, also of a run that is stopped or fails."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: numbers, texts, tensors, and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""


class EachEpoch(Callback):
    """A function of the run, called after every epoch."""

    def __init__(self, function: Callable[[Running], object]) -> None:
        self._function = function

    def epoch(self, run: Running) -> None:
        self._function(run)

    def __deepcopy__(self, memo: Any) -> EachEpoch:
        """Return itself: several models call the same function."""
        return self


def checked(argument: str, values: Any) -> tuple[Callback, ...]:
    """Return callbacks; functions of the run are called after every epoch."""
    if not isinstance(values, list | tuple):
        raise InputError(f"{argument}: expected a list of callbacks, got {shown(values)}")
    for each in values:
        if isinstance(each, type) or not (isinstance(each, Callback) or callable(each)):
            raise InputError(
                f"{argument}: expected pyro_dvae.Callback objects or functions, got {shown(each)}"
            )
    return tuple(each if isinstance(each, Callback) else EachEpoch(each) for each in values)
