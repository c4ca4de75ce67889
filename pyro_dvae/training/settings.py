"""The arguments that ``Trainer``, ``fit`` and ``fit_many`` share, checked once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from pyro.infer import ELBO
from torch import Tensor

from pyro_dvae import checks, random_state
from pyro_dvae.calling import calling
from pyro_dvae.engine.step import Numerics
from pyro_dvae.errors import InputError
from pyro_dvae.files import user_path
from pyro_dvae.training import learning_rates
from pyro_dvae.training.progress import Progress, chosen


class Settings:
    """The checked arguments of a training; what they mean stands in :class:`~pyro_dvae.training.Trainer`."""

    def __init__(
        self,
        *,
        loss: ELBO,
        epochs: int = 100,
        batch_size: int = 100,
        validate_every: int = 1,
        schedule: str | learning_rates.Schedule | None = None,
        clip_norm: float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        evaluate: Callable[..., float] | None = None,
        before_epoch: Iterable[Callable[[int], object]] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        progress: Progress | bool | None = None,
        bfloat16: bool = False,
    ) -> None:
        self.bound: ELBO = checks.elbo("loss", loss)
        self.epochs = checks.count("epochs", epochs)
        self.batch_size = checks.count("batch_size", batch_size)
        self.validate_every = checks.count("validate_every", validate_every)
        self.schedule = learning_rates.learning_rate_schedule(schedule)
        self.clip_norm: float | None = checks.optional(checks.positive, "clip_norm", clip_norm)
        self.transform: Callable[[Tensor], Tensor] | None = checks.optional(
            checks.program, "transform", transform
        )
        self.evaluate: Callable[..., float] | None = checks.optional(checks.program, "evaluate", evaluate)
        self.before_epoch = checks.programs("before_epoch", before_epoch)
        if checks.flag("resume", resume) and checkpoint is None:
            raise InputError("resume: expected the path of the checkpoint to go on from, got checkpoint=None")
        self.resume = resume
        self.checkpoint = None if checkpoint is None else user_path("checkpoint", checkpoint)
        self.checkpoint_every = checks.count("checkpoint_every", checkpoint_every)
        self.progress = chosen("progress", progress)
        self.numerics = Numerics("hashed", checks.flag("bfloat16", bfloat16))

    def validation_is_due(self, epoch: int) -> bool:
        """Return whether ``epoch`` (from 0) ends with a validation."""
        return _due(epoch, self.epochs, self.validate_every)

    def checkpoint_is_due(self, epoch: int) -> bool:
        """Return whether the checkpoint, if there is one, is saved after ``epoch`` (from 0)."""
        return self.checkpoint is not None and _due(epoch, self.epochs, self.checkpoint_every)

    def transformed(self, x: Tensor) -> Tensor:
        """Return what ``transform`` makes of a batch."""
        if self.transform is None:
            return x
        with calling("transform"):
            return self.transform(x)

    def rate_factor(self, epoch: int) -> float:
        """Return the factor of the base learning rate in ``epoch`` (from 0)."""
        with calling("schedule"):
            factor = self.schedule(epoch, self.epochs)
        return checks.number("schedule", factor, minimum=0)

    def announce(self, epoch: int, scheduled: Iterable[Any], seed: int) -> None:
        """Move the schedules to ``epoch`` (from 0), then call ``before_epoch``, each apart in its draws."""
        for part in scheduled:
            part.set_epoch(epoch)
        for number, callback in enumerate(self.before_epoch):
            own = random_state.derived_seed(seed, epoch, "before", number)
            with random_state.forked(own), calling("before_epoch"):
                callback(epoch)

    def described(self, learning_rate: Any) -> dict[str, Any]:
        """Return what a checkpoint says of these settings, as JSON-able values."""
        return {
            "batch_size": self.batch_size,
            "validate_every": self.validate_every,
            "learning_rate": learning_rate,
            "schedule": learning_rates.describe(self.schedule),
            "clip_norm": self.clip_norm,
            "bfloat16": self.numerics.bfloat16,
        }


def seed_of(argument: str, value: Any) -> int:
    """Return a seed, or refuse what is not a whole number from 0 on."""
    return checks.count(argument, value, minimum=0)


def _due(epoch: int, epochs: int, every: int) -> bool:
    """Return whether what is done every so many epochs is due after ``epoch`` (from 0), as after the last."""
    return (epoch + 1) % every == 0 or epoch + 1 == epochs
