"""Our own training of one model and of many together, an epoch at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from peers.problem import Problem
from peers.pyro_svi import bound_of, dvae_of
from peers.torch_parts import data_of
from pyro_dvae.training import Trainer
from pyro_dvae.training.many import ManyTraining
from pyro_dvae.training.settings import Settings

ENDLESS = sys.maxsize  # epochs


def fit(problem: Problem, **options: Any) -> Callable[[], float]:
    """Return a function that runs an epoch of :func:`pyro_dvae.fit` with a compiled step."""
    data = _data(problem)
    dvae = dvae_of(problem, data.shape[1])
    settings = _settings(problem) | {"compile": True} | options
    trainer = Trainer(dvae.model, dvae.guide, data, loss=bound_of(problem), progress=False, **settings)
    epochs = iter(trainer)

    def epoch() -> float:
        losses = []
        for x in next(epochs):
            losses.append(trainer.step(x))
        return float(torch.stack(losses).sum()) / len(data)

    return epoch


def many(
    problem: Problem, models: int | None = None, tf32: bool = False, **options: Any
) -> Callable[[], float]:
    """Return a function that runs an epoch of ``fit_many`` on equal models, and returns the first's loss.

    :param models: number of models, instead of the problem's.
    :param tf32: whether a GPU may round the factors of products to ten bits.
    """
    if tf32:
        torch.set_float32_matmul_precision("high")
    data = _data(problem)
    dvaes = [dvae_of(problem, data.shape[1]) for _ in range(models or problem.models)]
    pairs = [(each.model, each.guide) for each in dvaes]
    chosen = _settings(problem) | options
    rate = chosen.pop("learning_rate")
    settings = Settings(loss=bound_of(problem), progress=False, **chosen)
    training = ManyTraining(pairs, (data,), settings, learning_rate=rate)

    def epoch() -> float:
        training.epoch()
        bound = training.histories[0].train_bound[-1]
        assert bound is not None
        return -bound

    return epoch


def _data(problem: Problem) -> Tensor:
    pyro.enable_validation(False)
    torch.manual_seed(problem.seed)
    return data_of(problem)


def _settings(problem: Problem) -> dict[str, Any]:
    return {"epochs": ENDLESS, "batch_size": problem.batch, "learning_rate": problem.learning_rate}
