"""Calls the callbacks of a run, each apart from the random streams of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_dvae import random_state
from pyro_dvae.calling import calling
from pyro_dvae.distributed import Ranks
from pyro_dvae.training.callbacks.base import HOOKS, Callback, Running


class Calls:
    """The callbacks of a run.

    :param seed: of what they draw.
    :param ranks: rank 0 calls them; all learn whether the run is to stop.
    """

    def __init__(self, callbacks: Sequence[Callback], run: Running, seed: int, ranks: Ranks) -> None:
        self.run, self._callbacks, self._seed, self._ranks = run, callbacks, seed, ranks
        self._of = {hook: [each for each in enumerate(callbacks) if _has(each[1], hook)] for hook in HOOKS}

    def at(self, hook: str) -> None:
        """Call one hook of all."""
        if not self._ranks.first:
            return
        for number, callback in self._of[hook]:
            own = random_state.derived_seed(self._seed, "callback", number, hook, self.run.step)
            with random_state.forked(own), calling(f"callbacks[{number}]"):
                getattr(callback, hook)(self.run)

    @property
    def watches_steps(self) -> bool:
        """Whether any has a hook for steps."""
        return bool(self._of["step"])

    def stopping(self) -> bool:
        """Return whether one has asked to stop."""
        wanted = self.run.reason is not None
        return bool(self._ranks.of_first(wanted)) if self._callbacks else wanted

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, with the names of their classes."""
        states = [{"callback": type(each).__name__, "state": each.state_dict()} for each in self._callbacks]
        return {"step": self.run.step, "states": states}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Give every callback the first state of its class that no other has got; a new one starts afresh."""
        self.run.step, left = saved["step"], list(saved["states"])
        for number, callback in enumerate(self._callbacks):
            own = next((each for each in left if each["callback"] == type(callback).__name__), None)
            if own is not None:
                left.remove(own)
                with calling(f"callbacks[{number}]"):
                    callback.load_state_dict(own["state"])


def _has(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook)
