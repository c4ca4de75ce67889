"""One epoch: the order of its batches, and what of it has been done."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.random_state import derived_seed


def same_type(argument: str, values: Sequence[Tensor], train: Sequence[Tensor]) -> None:
    """Refuse data of other number types than the training data's."""
    if len(values) != len(train):
        raise InputError(
            f"{argument}: expected {len(train)} parts, as the training data have, got {len(values)}"
        )
    for value, like in zip(values, train, strict=True):
        if value.dtype != like.dtype:
            raise InputError(f"{argument}: expected {like.dtype}, as data has, got {value.dtype}")


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation of the rows: a pure function of the three arguments, apart from global state."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch, "order"))
    return torch.randperm(rows, generator=generator)


@dataclass
class EpochRecord:
    """The batches done, the losses of the steps taken, and the time it took.

    ``losses`` are sums over the rows of batches, without the scale of a plate. Those computed on a device
    that runs ahead wait in ``pending``, so that no step waits for them.
    """

    position: int = 0
    seen: int = 0
    losses: list[float] = field(default_factory=list)
    pending: list[Tensor] = field(default_factory=list)
    seconds_before: float = 0.0
    _rows_out: int = 0
    _share: float | None = None
    _position_out: int = 0
    _clock: float | None = None

    @property
    def step(self) -> int:
        """The batch that is out, or was last, counted from 1."""
        return self._position_out + 1

    @property
    def rows(self) -> int:
        """The rows of the batch that is out; 0 if none is."""
        return self._rows_out

    @property
    def share(self) -> float | None:
        """This process's share of the rows of the batch that is out; None if none is."""
        return self._share if self._rows_out else None

    @property
    def fresh_position(self) -> int | None:
        """The batch that is out, counted from 0, if no step was taken on it yet; else None."""
        fresh = self._rows_out > 0 and self.position == self._position_out
        return self._position_out if fresh else None

    def leave_out(self, seconds: float) -> None:
        """Do not count so much of the time."""
        self.seconds_before -= seconds

    def hand_out(self, rows: int, share: float = 1.0) -> None:
        """Note that the batch at ``position``, of so many rows, is given to the user's loop.

        :param share: of the rows that this process has, of several.
        """
        self._rows_out, self._position_out, self._share = rows, self.position, share

    def take_back(self) -> None:
        """Note that the loop has asked for the next batch: this one is done."""
        self._rows_out, self.position = 0, self._position_out + 1

    def abandon(self) -> None:
        """Note that the loop has been left: the batch that is out is done only if a step was taken on it."""
        self._rows_out = 0

    def add(self, loss: Tensor | float) -> None:
        """Note a step on the batch that is out; a step outside the loop over the epoch does not count."""
        if not self._rows_out:
            return
        self.seen += self._rows_out
        self.position = self._position_out + 1
        if isinstance(loss, Tensor):
            self.pending.append(loss)
        else:
            self.losses.append(loss)

    def fetch(self) -> tuple[int, float] | None:
        """Wait for the pending losses; return the first that is not finite, after its step (from 1)."""
        if self.pending:
            self.losses += torch.stack(self.pending).tolist()
            self.pending.clear()
        bad = (item for item in enumerate(self.losses, start=1) if not math.isfinite(item[1]))
        return next(bad, None)

    def bound(self) -> float | None:
        """Return the mean bound per datum over the steps taken; None if there was none."""
        return -math.fsum(self.losses) / self.seen if self.seen else None

    def start_clock(self) -> None:
        """Count the time from now on."""
        self._clock = time.monotonic()

    def stop_clock(self) -> None:
        """Count the time until now."""
        self.seconds_before, self._clock = self.seconds(), None

    def seconds(self) -> float:
        """Return the time counted so far."""
        return self.seconds_before + (0.0 if self._clock is None else time.monotonic() - self._clock)
