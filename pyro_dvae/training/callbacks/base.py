"""The base class of callbacks, their view of a run, and how they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import random_state
from pyro_dvae.calling import calling
from pyro_dvae.distributed import Ranks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History

HOOKS = ("start", "step", "epoch", "checkpoint", "end")


@dataclass
class Running:
    """A run as its callbacks see it.

    :param epochs: number of epochs.
    :param validates: whether it has a validation bound.
    :param number: number of the model among several, from 0; None if it is the only one.
    :param step: number of steps so far, over all epochs.
    :param reasons: why the run will stop, by the number of the callback that has asked for it.
    """

    epochs: int
    validates: bool
    _history: Callable[[], History] = field(repr=False)
    _fitted: Callable[[], Fitted] = field(repr=False)
    number: int | None = None
    step: int = 0
    reasons: dict[int, str] = field(default_factory=dict)
    _loss: tuple[Tensor | float | Callable[[], Tensor], int] | None = None
    _caller: int = 0

    @property
    def history(self) -> History:
        """The finished epochs: bounds (nats per observation), learning rates, seconds."""
        return self._history()

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history.epochs)

    @property
    def loss(self) -> float:
        """The loss of the last step (nats per observation)."""
        if self._loss is None or not self._loss[1]:
            return float("nan")
        found, rows = self._loss
        return float(found() if callable(found) else found) / rows

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The unconstrained parameters by name, live."""
        return self.fitted().trained.parameters

    def fitted(self) -> Fitted:
        """Return the current model and guide with their methods (``encode``, ``reconstruct``, ...)."""
        return self._fitted()

    @property
    def reason(self) -> str | None:
        """Why the run will stop; None to continue."""
        return next(iter(self.reasons.values()), None)

    def stop(self, reason: str = "asked by a callback") -> None:
        """End the run after the current epoch.

        After a request from the hook of steps, the epoch is validated as if it were the last. A resumed run
        stays stopped unless it has more epochs.
        """
        self.reasons[self._caller] = reason

    def note(self, loss: Tensor | float | Callable[[], Tensor], rows: int) -> None:
        """Record a step; ``loss`` is the sum over the rows of the last batch (nats), or a function for it."""
        self.step, self._loss = self.step + 1, (loss, rows)


class Callback:
    """Base class of callbacks, which are called during training. A subclass overrides the hooks it needs.

    Callbacks draw from separate random streams. The checkpoint stores the result of :meth:`state_dict`, and a
    resumed run restores it before ``start``. With several processes, the first one calls them, and the others
    follow what it does to parameters.

    ``decides_again`` says that ``start`` makes the decision to stop anew when a run is resumed.
    """

    decides_again = False

    def start(self, run: Running) -> None:
        """Called before the first epoch, also of a resumed run."""

    def step(self, run: Running) -> None:
        """Called after every step."""

    def epoch(self, run: Running) -> None:
        """Called after every epoch and its validation, before the checkpoint is saved."""

    def checkpoint(self, run: Running) -> None:
        """Called after the checkpoint is saved."""

    def end(self, run: Running) -> None:
        """Called at the end, also of a run that is stopped or fails."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: numbers, strings, tensors, and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class EachEpoch(Callback):
    """A function of the run, called after every epoch."""

    def __init__(self, function: Callable[[Running], object]) -> None:
        self._function = function

    def epoch(self, run: Running) -> None:
        self._function(run)

    def __deepcopy__(self, memo: Any) -> EachEpoch:
        """Return itself, because several models call the same function."""
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


class RunCallbacks:
    """The callbacks of a run.

    :param seed: seed of their random draws.
    :param ranks: rank 0 calls them; all ranks learn whether to stop, and follow changes of parameters.
    :param parameters: the parameters that callbacks may change or freeze.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        run: Running,
        seed: int,
        ranks: Ranks,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.run, self._callbacks, self._seed, self._ranks = run, callbacks, seed, ranks
        self._leaves = list((parameters or {}).values())
        self._of = {hook: [each for each in enumerate(callbacks) if _has(each[1], hook)] for hook in HOOKS}

    def at(self, hook: str) -> None:
        """Call a hook of all callbacks."""
        if not self._of[hook]:
            return
        with nullcontext() if hook == "end" else self._followed():
            for number, callback in self._of[hook] if self._ranks.first else ():
                with self._calling(number, hook):
                    getattr(callback, hook)(self.run)

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Give the other ranks what the body changes on rank 0: parameters, and which of them are frozen."""
        ranks, leaves = self._ranks, self._leaves
        before = [leaf.detach().clone() for leaf in leaves] if ranks.several and ranks.first else []
        yield
        if ranks.several:
            pairs = enumerate(zip(before, leaves, strict=False))  # nothing is before on other ranks
            found = [n for n, (then, now) in pairs if not torch.equal(then, now)]
            changed, trains = ranks.of_first((found, [leaf.requires_grad for leaf in leaves]))
            ranks.copy_first([leaves[n] for n in changed])
            for leaf, wanted in zip(leaves, trains, strict=True):
                leaf.requires_grad_(wanted)

    @contextmanager
    def _calling(self, number: int, hook: str) -> Iterator[None]:
        """Call a callback in the body: with its own random stream, and its name in errors."""
        own = random_state.derived_seed(self._seed, "callback", number, hook, self.run.step)
        self.run._caller = number
        with random_state.forked(own), calling(f"callbacks[{number}]"):
            yield

    def has(self, hook: str) -> bool:
        """Whether any callback has a hook."""
        return bool(self._of[hook])

    def stopping(self) -> bool:
        """Return whether a callback has asked to stop."""
        wanted = self.run.reason is not None
        return bool(self._ranks.of_first(wanted)) if self._callbacks else wanted

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all callbacks, with the names of their classes."""
        states = []
        for number, each in enumerate(self._callbacks if self._ranks.first else ()):
            with self._calling(number, "state_dict"):
                reason = None if each.decides_again else self.run.reasons.get(number)
                states.append({"callback": type(each).__name__, "state": each.state_dict(), "reason": reason})
        return {"step": self.run.step, "epochs": self.run.epochs, "states": states}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Give each callback the next saved state of its class; a new callback starts afresh."""
        self.run.step, left = saved["step"], list(saved["states"])
        longer = self.run.epochs > saved.get("epochs", self.run.epochs)
        for number, callback in enumerate(self._callbacks if self._ranks.first else ()):
            own = next((each for each in left if each["callback"] == type(callback).__name__), None)
            if own is None:
                continue
            left.remove(own)
            with self._calling(number, "load_state_dict"):
                callback.load_state_dict(own["state"])
            if own.get("reason") is not None and not longer:
                self.run.reasons[number] = own["reason"]


def _has(callback: Callback, hook: str) -> bool:
    found = getattr(callback, hook)
    return getattr(found, "__func__", found) is not getattr(Callback, hook)
