"""The setting of a run's program: options, data, device, and resumable training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from pyro_dvae.bounds import DenoisingELBO
from pyro_dvae.corruptions import Corruption
from pyro_dvae.evaluation import evaluate_bound
from pyro_dvae.jobs.data import RunData
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import (
    build_bound,
    build_clean_bound,
    build_corruption,
    build_decoder,
    build_encoder,
    training_settings,
)
from pyro_dvae.training import History, Trainer
from pyro_dvae.training.progress import Progress

Program = Callable[..., Any]
CHECKPOINT_EVERY = 10  # epochs
ROWS_ON_ACCELERATOR = 20_000  # validated at once, because launches dominate the time


@dataclass(frozen=True)
class TrainingPair:
    """A model and a guide to train.

    :param measured: the pair to validate and measure if it differs, such as the predictive model of full
        variational Bayes.
    :param freeze: parameters that are not trained, as for :class:`~pyro_dvae.training.Trainer`.
    """

    model: Program
    guide: Program
    bound: ELBO
    measured_as: tuple[Program, Program] | None = None
    freeze: Any = None

    @property
    def measured(self) -> tuple[Program, Program]:
        """The pair to validate and to measure."""
        return self.measured_as or (self.model, self.guide)


@dataclass
class Setting:
    """The setting of one run.

    :param options: its options.
    :param data: its data; ``data.train`` has only the rows of the case.
    :param device: its device.
    :param checkpoint: its checkpoint; checkpoints of earlier phases contain the phase's name.
    :param progress: shows every phase.

    ``cpu_of_epoch`` is the least processor time of an epoch of the last phase, in seconds.
    """

    options: Options
    data: RunData
    device: torch.device
    checkpoint: Path
    progress: Progress
    compile_seconds: float = field(default=0.0, init=False)
    cpu_of_epoch: float | None = field(default=None, init=False)

    @cached_property
    def corruption(self) -> Corruption:
        return build_corruption(self.options, self.data.dataset.train).to(self.device)

    def encoder(self) -> nn.Module:
        data = self.data.dataset
        shape = (data.dimension, data.image_shape, data.columns)
        return build_encoder(self.options, *shape).to(self.device)

    def decoder(self) -> nn.Module:
        data = self.data.dataset
        shape = (data.dimension, data.image_shape, data.columns)
        return build_decoder(self.options, *shape, data.train).to(self.device)

    def bound(self) -> DenoisingELBO:
        return build_bound(self.options)

    def validation(self, pair: TrainingPair) -> Callable[[], float]:
        """Return a function that measures the bound of the validation data on clean input."""
        held_out, bound = self.data.visit(self.data.validation), build_clean_bound(self.options)
        rows = None if self.device.type == "cpu" else ROWS_ON_ACCELERATOR
        return lambda: evaluate_bound(*pair.measured, held_out, loss=bound, batch_size=rows).mean

    def fit(self, pair: TrainingPair, phase: str = "") -> History:
        """Train the pair, or resume its training; load its best weights by validation."""
        options = self.options
        checkpoint = self.checkpoint.with_name(f"{self.checkpoint.stem}{phase}{self.checkpoint.suffix}")
        trainer = Trainer(
            pair.model,
            pair.guide,
            self.data.train,
            loss=pair.bound,
            evaluate=self.validation(pair),
            learning_rate=options.learning_rate,
            transform=self.data.visit,
            seed=options.seed,
            checkpoint=checkpoint,
            checkpoint_every=CHECKPOINT_EVERY,
            resume=checkpoint.exists(),
            config={k: v for k, v in options.as_dict().items() if k not in ("data_folder", "device")},
            progress=self.progress,
            device=self.device,
            compile=options.compiled,
            freeze=pair.freeze,
            may_change=("compiled",),
            **training_settings(options),
        )
        times = []
        for epoch in trainer:
            began = time.process_time()
            for x in epoch:
                trainer.step(x)
            times.append(time.process_time() - began)
        trainer.load_best()
        self.compile_seconds += trainer.compile_seconds
        self.cpu_of_epoch = min(
            times, default=None
        )  # of the epoch with the least disturbance by other processes
        return trainer.history
