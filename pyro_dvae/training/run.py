"""The state of a run: all that changes from step to step and from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pyro_dvae.programs.parameters import Trained
from pyro_dvae.training.epochs import EpochRecord
from pyro_dvae.training.history import FIRST_LOSSES, History
from pyro_dvae.training.recorded import Recorded
from pyro_dvae.training.settings import Settings
from pyro_dvae.training.update import Update


@dataclass
class Run:
    """The live contents of a checkpoint.

    :param checkpoint: the file to save to, if any.
    :param learning_rate: the base rate of the optimizer.
    :param finished: number of finished epochs.
    :param record: progress of the next epoch.
    :param best: the parameters and buffers of the best epoch by validation.
    :param random: the random states to continue with if they differ from the current ones.
    :param place: the state of a loader that has one.
    :param recorded: the recordings of compiled steps.
    :param saved_at: (finished epochs, batches) of the last checkpoint.
    """

    checkpoint: Path | None
    learning_rate: float
    trained: Trained = field(default_factory=Trained)
    leaves: list[Tensor] = field(default_factory=list)
    update: Update = field(init=False)
    history: History = field(default_factory=History)
    finished: int = 0
    record: EpochRecord = field(default_factory=EpochRecord)
    best: dict[str, Tensor] | None = None
    random: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None
    place: Any = None
    recorded: Recorded = field(default_factory=Recorded)
    saved_at: tuple[int, int] | None = None

    def train(self, trained: Trained, settings: Settings) -> None:
        """Set the parameters to train, with a new optimizer."""
        if settings.freeze is not None:
            trained.freeze("freeze", settings.freeze)
        self.trained, self.leaves = trained, list(trained.free.values())
        self.clear_gradients()
        self.update = Update(trained.free, settings, self.learning_rate)

    def described(self, settings: Settings) -> dict[str, Any]:
        """Return the settings, a chosen optimizer and the frozen parameters as a checkpoint stores them."""
        content = {"epochs": settings.epochs} | settings.described(self.learning_rate)
        chosen = settings.optimizer is not None or settings.parameter_options
        optimizer = {"optimizer": self.update.described} if chosen else {}
        return content | optimizer | ({"freeze": list(self.trained.frozen)} if self.trained.frozen else {})

    @property
    def optimizer(self) -> Optimizer:
        return self.update.optimizer

    @property
    def now(self) -> tuple[int, int]:
        """The numbers of finished epochs, and of finished batches of the next epoch."""
        return self.finished, self.record.position

    @property
    def rate(self) -> float:
        return self.update.rate if self.leaves else self.learning_rate

    def clear_gradients(self) -> None:
        for leaf in self.trained.parameters.values():
            leaf.grad = None

    def end_epoch(self, validation_bound: float | None) -> None:
        """Add the epoch to the history; keep its weights if it is the best."""
        better = self.history.add(self.record.bound(), validation_bound, self.rate, self.record.seconds())
        averaged = self.update.average is not None and self.history.best_epoch is None
        if better or averaged:  # without validation, the last averages are the best
            with self.update.averaged():
                self.best = {name: tensor.clone() for name, tensor in self.trained.tensors().items()}
        self.update.end_epoch(validation_bound)
        if self.finished == 0:
            self.history.first_losses = self.record.losses[:FIRST_LOSSES]
        self.finished += 1
        self.record = EpochRecord()

    def begin_epoch_again(self) -> None:
        """Restart the current epoch, but keep its time."""
        self.update.forget_gradients()
        self.record = EpochRecord(seconds_before=self.record.seconds_before)

    def load_best(self) -> None:
        """Copy the best epoch's parameters and buffers into the live ones; without validation do nothing."""
        if self.best is not None:
            self.trained.assign(self.best)

    def last_checkpoint(self) -> str:
        """Return the end of a message: where the last good checkpoint is."""
        saved = self.saved_at is not None
        return f"; last good checkpoint: {self.checkpoint}" if saved else "; no checkpoint was saved"
