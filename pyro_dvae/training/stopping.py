"""Whether a run is to stop: its user asked for it, or the user of another of several processes did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyro_dvae.distributed import Ranks
from pyro_dvae.interrupts import Interrupts

_AGREE_EVERY = 20  # steps between two looks on a device that computes ahead


class ValidationStopped(Exception):  # noqa: N818 - not an error
    """A stop was requested while validating."""


class Requests:
    """The requests to stop, on which several processes agree in a step, so that all stop after the same."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._interrupts = Interrupts()
        self._agreed = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take signals in the body as requests."""
        with Interrupts() as self._interrupts:
            yield

    @property
    def made(self) -> bool:
        """Whether there is a request."""
        return self._agreed if self._ranks.several else self._interrupts.requested

    def agreed(self, loss: float, step: int, ahead: bool) -> float:
        """Return the loss over all ranks; note whether any of them is asked to stop, so that all do.

        :param step: the step of the epoch, from 1.
        :param ahead: the device computes ahead: the ranks agree now and then only.
        """
        if not self._ranks.several or (ahead and step % _AGREE_EVERY):
            return loss
        total, requests = self._ranks.sum([loss, self._interrupts.requested])
        self._agreed = requests > 0
        return total

    def go_on_validating(self) -> None:
        """:raises ValidationStopped: the user of the only process asks to stop."""
        if self._interrupts.requested and not self._ranks.several:
            raise ValidationStopped
