"""Early ends of a run: a request to stop, or a fault, explained in one line with a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_dvae.distributed import Ranks
from pyro_dvae.errors import DivergenceError, InputError
from pyro_dvae.interrupts import Interrupts
from pyro_dvae.training.diagnosis import first_fault
from pyro_dvae.training.run import Run
from pyro_dvae.training.settings import Settings

_AGREE_EVERY = 20  # steps between two checks on an asynchronous device


class ValidationStopped(Exception):  # noqa: N818 - not an error
    """A stop was requested while validating."""


class Requests:
    """Requests to stop, on which several processes agree, so that all stop after the same step."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._interrupts = Interrupts()
        self._agreed = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Treat signals in the body as requests."""
        with Interrupts() as self._interrupts:
            yield

    @property
    def made(self) -> bool:
        """Whether there is a request."""
        return self._agreed if self._ranks.several else self._interrupts.requested

    def agreed(self, loss: float, step: int, ahead: bool) -> float:
        """Return the loss over all ranks; if any rank is asked to stop, all will.

        :param step: the step of the epoch, from 1.
        :param ahead: the device is asynchronous, so the ranks agree only every 20 steps.
        """
        if not self._ranks.several or (ahead and step % _AGREE_EVERY):
            return loss
        total, requests = self._ranks.sum([loss, self._interrupts.requested])
        self._agreed = requests > 0
        return total

    def go_on_validating(self) -> None:
        """Raise ``ValidationStopped`` if the user of a single process asks to stop."""
        if self._interrupts.requested and not self._ranks.several:
            raise ValidationStopped


class Faults:
    """Finds non-finite values in a run, and explains why a step failed.

    :param loss: the loss of a batch, which is run again to find the fault.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        loss: Callable[..., object],
        ranks: Ranks,
        requests: Requests,
    ) -> None:
        self._run, self._settings, self._loss = run, settings, loss
        self._ranks, self._requests = ranks, requests

    def diverged(self, what: str, step: int | None = None) -> DivergenceError:
        """Return the error of a divergence in ``step`` (from 1), by default the current one."""
        run = self._run
        return DivergenceError(
            f"training diverged in epoch {run.finished + 1}, step {step or run.record.step}: "
            f"{what}{run.last_checkpoint()}; try a smaller learning_rate (now {run.rate:g}), a clip_norm "
            f"(now {self._settings.clip_norm}), and check the range of the data"
        )

    def require_finite(self, loss: float) -> None:
        """Refuse the loss of the current step if it is NaN or infinite."""
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss}")

    def require_finite_losses(self) -> None:
        """Refuse non-finite losses of the epoch; wait for an asynchronous device."""
        record = self._run.record
        if self._ranks.several and record.pending:
            record.pending = list(self._ranks.sum_of(torch.stack(record.pending)))
        bad = record.fetch()
        if bad is not None:
            raise self.diverged(f"the loss is {bad[1]}", bad[0])

    def require_finite_parameters(self) -> None:
        for name, leaf in self._run.trained.parameters.items():
            if not bool(torch.isfinite(leaf).all()):
                raise self.diverged(f"parameter {name!r} holds NaN or infinity")

    @contextmanager
    def explained(self, *batch: Tensor) -> Iterator[None]:
        """Turn the tensor dumps of Pyro's and torch's own checks into one line that names the place.

        :param batch: the batch whose loss the body computes.
        """
        try:
            yield
        except ValueError as error:
            self._explain(error, batch)
            raise

    def _explain(self, error: ValueError, batch: tuple[Tensor, ...]) -> None:
        if "Expected more than 1 value per channel" in str(error):
            raise InputError(
                f"batch_size: a batch of {len(batch[0])} row is too small for batch normalisation; use "
                f"drop_last=True, or a batch_size other than {self._settings.batch_size}"
            ) from error
        if isinstance(error, InputError) or "found invalid values" not in str(error):
            return
        fault = first_fault(lambda: self._loss(*batch))
        text = "a distribution was given values out of range" if fault is None else fault.text
        if self._is_divergence(error, batch) or (fault is not None and not fault.finite):
            if self._run.leaves:  # in a step, which the other ranks also take
                self._requests.agreed(math.nan, self._run.record.step, batch[0].device.type != "cpu")
            raise self.diverged(text) from error
        raise InputError(f"model, guide, data: {text}") from error

    def _is_divergence(self, error: ValueError, batch: tuple[Tensor, ...]) -> bool:
        shown = str(error).partition("found invalid values")[2]
        finite = all(bool(torch.isfinite(each).all()) for each in (*batch, *self._run.leaves))
        return "nan" in shown or "inf" in shown or not finite
