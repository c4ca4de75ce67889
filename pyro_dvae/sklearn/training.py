"""Trains a VAE on an array of rows, which may have gaps, like a run but without a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from pyro_dvae.conditioning import fill_gaps, with_gaps
from pyro_dvae.datasets.base import Dataset, permuted_split
from pyro_dvae.datasets.from_arrays import of_arrays
from pyro_dvae.datasets.treatment import Content, Treatment
from pyro_dvae.evaluation import evaluate_bound
from pyro_dvae.jobs.guess import by_size, fitting
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import (
    build_bound,
    build_clean_bound,
    build_corruption,
    build_decoder,
    build_encoder,
    check_training,
    pick_device,
    training_settings,
)
from pyro_dvae.models import DVAE
from pyro_dvae.programs.support import require_observed
from pyro_dvae.random_state import forked
from pyro_dvae.training import Fitted, fit

_SCALES = {"auto": "auto", "gaussian-columns": "standardise", "table": "standardise"}  # others: unchanged


@dataclass(frozen=True)
class Scaled:
    """Scales the columns of an array for a model: (value − offset) / factor.

    :param offset: [D].
    :param factor: [D].
    """

    offset: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, data: Dataset) -> Scaled:
        """Return the scales of a data set."""
        columns = data.columns.columns if data.columns is not None else ()
        offset = [each.offset for each in columns] or [0.0] * data.dimension
        factor = [each.factor for each in columns] or [1.0] * data.dimension
        return cls(np.array(offset), np.array(factor))

    def forward(self, x: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Return rows [N, D] on the scale of the model, in the floating-point type of ``x``."""
        return torch.from_numpy(((x - self.offset) / self.factor).astype(x.dtype)).to(device)

    def back(self, rows: Tensor) -> np.ndarray:
        """Return rows [N, D] in the units of the array."""
        found = rows.cpu().numpy()
        return (found * self.factor + self.offset).astype(found.dtype)

    def log_factor(self, seen: np.ndarray) -> np.ndarray:
        """Return the correction to subtract from the log-density of each row's observed cells, [N] (nats)."""
        found: np.ndarray = seen @ np.log(self.factor)
        return found


def train(
    x: np.ndarray, options: Options, given: frozenset[str], *, validation: float, progress: bool
) -> tuple[Fitted, Scaled]:
    """Train a VAE on rows [N, D], float32 or float64, with NaN in gaps; global random streams do not change.

    :param options: the options of the command line, including the seed.
    :param given: names of the given options; the others are chosen from the values.
    :param validation: share of the rows that choose the best epoch; 0 for none.
    :returns: the trained pair of whole rows, and the scales of the columns.
    """
    x = x[permuted_split(len(x), (len(x),), options.seed)[0].numpy()]
    count = len(x) - round(validation * len(x))
    data = _dataset(x, count, _SCALES.get(options.likelihood, "none"))
    options, _ = fitting(options, given, data)
    options = by_size(options, given, data, None)
    check_training(options)
    device, scaled = pick_device(options.device), Scaled.of(data)
    with forked(options.seed), pyro.get_param_store().scope():
        dvae = DVAE(
            build_encoder(options, data.dimension, columns=data.columns),
            build_decoder(options, data.dimension, None, data.columns, data.train),
            build_corruption(options, data.train),
        ).to(device, torch.from_numpy(x[:0]).dtype)
        every = rows_of(scaled.forward(x, device))
        require_values(dvae.model, every)
        pair = pair_of(dvae.model, dvae.guide, every)
        rows, held = ([part[own] for part in every] for own in (slice(count), slice(count, None)))

        def evaluate() -> float:
            return evaluate_bound(*pair, *held, loss=build_clean_bound(options)).mean

        fitted = fit(
            *pair,
            *rows,
            loss=build_bound(options),
            evaluate=evaluate if count < len(x) else None,
            learning_rate=options.learning_rate,
            seed=options.seed,
            device=device,
            progress=None if progress else False,
            compile=options.compiled,
            **training_settings(options),
        )
    dvae.eval()
    whole = replace(fitted, model=dvae.model, guide=dvae.guide, best={}, rows=fitted.rows[:1])
    return whole, scaled


def rows_of(x: Tensor) -> tuple[Tensor, ...]:
    """Return the arguments of a pair: the rows, and if some cells are NaN, also their mask."""
    return fill_gaps(x) if bool(x.isnan().any()) else (x,)


def pair_of(model: Any, guide: Any, rows: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Return the pair for such rows."""
    return with_gaps(model, guide) if len(rows) == 2 else (model, guide)


def require_values(model: Any, rows: tuple[Tensor, ...]) -> None:
    """Refuse observed cells outside the support of the model's likelihood."""
    x = torch.where(rows[1], rows[0], torch.nan) if len(rows) == 2 else rows[0]
    with pyro.get_param_store().scope():
        require_observed(model, x)


def _dataset(x: np.ndarray, count: int, scale: str) -> Dataset:
    """Return the rows, the first ``count`` for training, as a data set from which options are chosen.

    Gaps get an observed value of their column, which changes neither its range nor the kind of its values.
    """
    whole = x.copy()
    for column in whole.T:
        gaps = np.isnan(column)
        if gaps.any():
            column[gaps] = np.resize(column[~gaps], gaps.sum()) if not gaps.all() else 0.0
    others = whole[count:] if count < len(x) else whole
    arrays = {"train": whole[:count], "validation": others, "test": others}
    return of_arrays(Content(Path("X"), parts=arrays), Treatment(scale=scale).checked(), 0)


FLOATS = (np.float64, np.float32)


def seed_of(random_state: Any) -> int:
    """Return a seed drawn from a seed, a generator, or NumPy's global stream (None)."""
    return int(check_random_state(random_state).randint(2**31 - 1))
