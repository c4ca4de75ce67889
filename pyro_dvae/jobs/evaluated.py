"""The model of a run with the test data of the run's own evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import Proposal
from pyro_dvae.jobs import folder as run_folder
from pyro_dvae.jobs.data import RunData, load_again, log_p_of
from pyro_dvae.jobs.options import LARGE, WEIGHTS, EvaluationOptions, Options
from pyro_dvae.jobs.parts import build_corruption, pick_device
from pyro_dvae.models import DVAE
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.training.run_state import read_training


@dataclass(frozen=True)
class EvaluatedRun:
    """A trained model with its data.

    :param dvae: model and guide, in evaluation mode, the corruption at the level of ``epoch``.
    :param config: content of the run's ``config.json``.
    :param options: options of the run.
    :param data: the run's data.
    :param x: test data to evaluate, the same as in the run's own evaluation, [N, D].
    :param epoch: epoch of the weights, from 1; 0 before the end of the first epoch.
    """

    dvae: DVAE
    config: dict[str, Any]
    options: Options
    data: RunData
    x: Tensor
    epoch: int

    @property
    def title(self) -> str:
        """The data in words, for the pictures."""
        name = self.config["data"]["name"]
        wanted = self.config["data"]["substituted_for"]
        return f"{name} (in place of {wanted})" if wanted else name

    @property
    def observation(self) -> str:
        """What log p(x) is the logarithm of, as :func:`~pyro_dvae.jobs.data.log_p_of`."""
        decoder: Any = self.dvae.model.decoder
        return log_p_of(self.options, decoder.discrete, self.data.visit(self.data.test))

    def labels(self) -> tuple[Tensor, Tensor] | None:
        """Return the classes of the training data and of ``x``, or None without several classes."""
        train, test = self.data.dataset.train_labels, self.data.dataset.test_labels
        if train is None or test is None or len(train.unique()) < 2:
            return None
        return train, test[: len(self.x)]

    def train_x(self) -> Tensor:
        """Return the training data in the form of the model's input, [N, D]."""
        with forked(derived_seed(self.options.seed, "evaluation", "train")):  # new draws if dynamic
            return self.data.visit(self.data.train)


def check_options(options: EvaluationOptions) -> None:
    """Refuse early what would be refused after much work."""
    least = {"samples": 1, "memory": 1, "annealed": 0, "simulated": 0, "annealing_steps": 1, "chains": 1}
    least |= {"corruptions": 2 if options.proposal == "mixture" else 1}
    for name, minimum in least.items():
        checks.count(name, getattr(options, name), minimum, LARGE)
    checks.count("seed", options.seed, 0)
    if options.count is not None:
        checks.count("count", options.count)
    checks.known("which", options.which, WEIGHTS)
    kind = "clean" if options.proposal == "auto" else options.proposal
    Proposal(kind, options.corruptions, options.defensive, options.widen)


def load_evaluated_run(
    folder: Path,
    options: EvaluationOptions,
    device: str = "auto",
    data_folder: str | None = None,
    dataset: str | None = None,
) -> EvaluatedRun:
    """Read model and data of a run.

    :raises InputError: the folder has no run or no checkpoint, or there are fewer than ``count`` test rows.
    :raises DataError: the run's data are not available, or have changed.
    """
    with forked():  # constructors draw weights before they are loaded
        dvae, config = run_folder.load_run(folder, options.which)
    run_options, place = run_folder.options_of(config), pick_device(device)
    _, state = read_training(folder / run_folder.CHECKPOINT, lambda name: False)
    best = state["history"]["best_epoch"] if options.which == "best" else None
    epoch = best or state["epoch"]
    data = load_again(config, run_options, data_folder, place, state["data"].get("train"), dataset)
    if run_options.noise_pattern != "uniform":  # never learned, so it is not in the checkpoint
        dvae.guide.corruption = build_corruption(run_options, data.dataset.train)
    if run_options.noise_kind == "swap":
        dvae.guide.corruption.columns = build_corruption(run_options, data.dataset.train).columns
    dvae.guide.corruption.set_epoch(max(0, epoch - 1))
    size = len(data.test)
    if options.count is not None and options.count > size:
        raise InputError(f"count: expected at most {size}, the number of test rows, got {options.count}")
    if size == 0:
        raise InputError(f"data: {config['data']['name']} has no test data")
    with forked(), torch.no_grad():
        x = data.visit(data.test[: options.count])
    return EvaluatedRun(dvae.to(place).eval(), config, run_options, data, x, epoch)
