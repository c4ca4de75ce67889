"""The callbacks of several models that are trained together: each has copies of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_dvae.distributed import Ranks
from pyro_dvae.training.callbacks.base import Running
from pyro_dvae.training.callbacks.calls import Calls
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.many_state import ManyState
from pyro_dvae.training.settings import Settings


class ManyCalls:
    """Calls the callbacks of every model that goes on, and stops those that are to stop.

    :param fitted: returns what has come of all.
    :param validates: whether they have a validation bound.
    """

    def __init__(
        self,
        state: ManyState,
        settings: Settings,
        seeds: Sequence[int],
        validates: bool,
        fitted: Callable[[], list[Fitted]],
    ) -> None:
        self._state, self._settings = state, settings

        def running(number: int) -> Running:
            def history() -> Any:
                return state.histories[number]

            return Running(settings.epochs, validates, history, lambda: fitted()[number], number)

        self._calls = [
            Calls(copy.deepcopy(settings.callbacks), running(number), seed, Ranks())
            for number, seed in enumerate(seeds)
        ]

    def at(self, hook: str) -> None:
        """Call a hook; one that asks to stop is heard at the start and at the end of an epoch."""
        state = self._state
        for number, (calls, member) in enumerate(zip(self._calls, state.members, strict=True)):
            if not self._settings.callbacks or (state.stopped[number] and hook != "end"):
                continue
            with member.with_store():
                calls.at(hook)
            if hook in ("start", "epoch") and calls.stopping():
                state.stopped[number] = True
                self._settings.progress.note(
                    f"model {number} stopped after epoch {state.finished}: {calls.run.reason}"
                )

    def note_step(self, losses: Tensor, rows: int) -> None:
        """Take note of a step of all on batches of so many rows; call the hook of steps.

        :param losses: [E].
        """
        watched = any(calls.watches_steps for calls in self._calls)
        for number, calls in enumerate(self._calls):
            if not self._state.stopped[number]:
                loss = self._state.members[number].loss
                calls.run.note(loss.per_row(losses[number], rows) if watched else float("nan"), rows)
        if watched:
            self.at("step")

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of all."""
        return [calls.state_dict() for calls in self._calls]

    def load_state_dict(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        for calls, state in zip(self._calls, saved, strict=True):
            calls.load_state_dict(state)
