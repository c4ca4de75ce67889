"""One epoch: the order of its batches, and its progress."""

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
    """Refuse data whose types differ from the training data's."""
    if len(values) != len(train):
        raise InputError(
            f"{argument}: expected {len(train)} parts, as the training data have, got {len(values)}"
        )
    for value, like in zip(values, train, strict=True):
        if value.dtype != like.dtype:
            raise InputError(f"{argument}: expected {like.dtype}, as data has, got {value.dtype}")


def epoch_order(rows: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation of the rows, a function of the arguments; a single batch keeps their order."""
    if batch_size >= rows:
        return torch.arange(rows)
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch, "order"))
    return torch.randperm(rows, generator=generator)


@dataclass
class EpochRecord:
    """The finished batches of an epoch, the losses of its steps, and its time.

    ``losses`` are sums over the rows of batches, without the scale of a plate. Losses on an asynchronous
    device stay in ``pending``, so that no step waits for them.
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
        """The current or last batch, counted from 1."""
        return self._position_out + 1

    @property
    def rows(self) -> int:
        """The rows of the current batch; 0 outside the loop over the epoch."""
        return self._rows_out

    @property
    def share(self) -> float | None:
        """This process's share of the rows of the current batch; None outside the loop over the epoch."""
        return self._share if self._rows_out else None

    @property
    def fresh_position(self) -> int | None:
        """The position of the current batch (from 0) if no step was taken on it yet; else None."""
        fresh = self._rows_out > 0 and self.position == self._position_out
        return self._position_out if fresh else None

    def leave_out(self, seconds: float) -> None:
        """Exclude some time from the epoch's."""
        self.seconds_before -= seconds

    def hand_out(self, rows: int, share: float = 1.0) -> None:
        """Record that the user's loop gets the batch at ``position``.

        :param rows: rows of the whole batch.
        :param share: this process's share of the rows.
        """
        self._rows_out, self._position_out, self._share = rows, self.position, share

    def take_back(self) -> None:
        """Record that the loop has asked for the next batch, so the current one is finished."""
        self._rows_out, self.position = 0, self._position_out + 1

    def abandon(self) -> None:
        """Record that the loop was left; the current batch is finished only if a step was taken on it."""
        self._rows_out = 0

    def add(self, loss: Tensor | float) -> None:
        """Record a step on the current batch; steps outside the loop over the epoch do not count."""
        if not self._rows_out:
            return
        self.seen += self._rows_out
        self.position = self._position_out + 1
        if isinstance(loss, Tensor):
            self.pending.append(loss)
        else:
            self.losses.append(loss)

    def fetch(self) -> tuple[int, float] | None:
        """Wait for the pending losses; return step (from 1) and value of the first that is not finite."""
        if self.pending:
            self.losses += torch.stack(self.pending).tolist()
            self.pending.clear()
        bad = (item for item in enumerate(self.losses, start=1) if not math.isfinite(item[1]))
        return next(bad, None)

    def bound(self) -> float | None:
        """Return the mean bound per row over the steps taken; None without steps."""
        return -math.fsum(self.losses) / self.seen if self.seen else None

    def start_clock(self) -> None:
        self._clock = time.monotonic()

    def stop_clock(self) -> None:
        self.seconds_before, self._clock = self.seconds(), None

    def seconds(self) -> float:
        """Return the time counted so far."""
        return self.seconds_before + (0.0 if self._clock is None else time.monotonic() - self._clock)
