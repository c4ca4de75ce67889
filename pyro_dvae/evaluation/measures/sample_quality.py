"""How similar samples are to real rows: columns, pairs of columns, and what can be learned from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError

_BINS = 10  # of a real column in a joint table with a category
_TREES = 50
_LEARNED_FROM = 5_000  # rows


@dataclass(frozen=True)
class RowsQuality:
    """Some rows compared with held-out rows; each figure is at most 1, and more is better.

    :param shapes: of each column, 1 − Kolmogorov-Smirnov distance, or 1 − total variation of categories, [D].
    :param pairs: mean over pairs of columns of 1 − |ρ − ρ'| / 2 (Pearson's ρ), or of 1 − total variation of
        their joint table if one is a category (reals in ten bins); NaN for a single column.
    :param accuracy: share of held-out cells of the categories among the targets that a random forest gets
        right, trained on these rows to predict a target from the other columns; NaN without such targets.
    :param accuracy_error: binomial standard error of it.
    :param r2: mean over the targets that are no categories of 1 − squared error / variance, likewise.
    """

    shapes: tuple[float, ...]
    pairs: float
    accuracy: float
    accuracy_error: float
    r2: float

    @property
    def shape(self) -> float:
        """The mean of ``shapes``."""
        return float(np.mean(self.shapes))


@dataclass(frozen=True)
class SampleQuality:
    """Scores of samples, of real training rows (the best to expect) and of independent columns (a baseline).

    Real rows do not reach 1, because there are finitely many.

    :param samples: scores of the model's samples.
    :param real: scores of training rows.
    :param independent: scores of training rows with each column permuted separately.
    :param targets: columns that were predicted.
    :param num_rows: rows of each kind.
    :param num_test: held-out rows.
    """

    samples: RowsQuality
    real: RowsQuality
    independent: RowsQuality
    targets: tuple[int, ...]
    num_rows: int
    num_test: int

    def __str__(self) -> str:
        kinds = {"samples": self.samples, "training rows": self.real, "independent": self.independent}
        lines = [f"{'':<15}{'columns':>9}{'pairs':>9}{'accuracy':>10}{'R²':>9}"]
        for name, each in kinds.items():
            figures = (each.shape, each.pairs, each.accuracy, each.r2)
            shown = ["-" if math.isnan(value) else f"{value:.3f}" for value in figures]
            lines.append(f"{name:<15}{shown[0]:>9}{shown[1]:>9}{shown[2]:>10}{shown[3]:>9}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        kinds = {"samples": self.samples, "real": self.real, "independent": self.independent}
        found: dict[str, Any] = {
            name: {
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in {**asdict(each), "shape": each.shape}.items()
            }
            for name, each in kinds.items()
        }
        return found | {"targets": list(self.targets), "num_rows": self.num_rows, "num_test": self.num_test}


def sample_quality(
    samples: Tensor,
    train: Tensor,
    test: Tensor,
    *,
    categories: Sequence[int] = (),
    targets: Sequence[int] | None = None,
    seed: int = 0,
) -> SampleQuality:
    """Compare samples with held-out rows: columns, pairs of columns, and learning from them::

        train on samples, test on real: accuracy and R² of a random forest on held-out rows

    The same scores of training rows and of independent columns show the range of these scores.

    :param samples: rows drawn from a model, [N, D].
    :param train: its training rows, of which N are taken at random, [M, D].
    :param test: held-out rows, [T, D], T ≥ 2.
    :param categories: columns with categorical or binary values.
    :param targets: columns to predict from the others; by default at most eight, categories first.
    :param seed: seed of permutations and forests.
    :raises InputError: rows do not have the same columns, or a column does not exist.
    """
    rows = {"samples": samples, "train": train, "test": test}
    for name, each in rows.items():
        if checks.data(name, each).dim() != 2 or each.shape[1] != test.shape[1] or len(each) < 2:
            raise InputError(
                f"{name}: expected at least 2 rows of {test.shape[1]} columns, got shape {tuple(each.shape)}"
            )
    size = test.shape[1]
    for column in (*categories, *(targets or ())):
        checks.count("categories, targets", column, minimum=0, maximum=size - 1)
    kinds = np.isin(np.arange(size), list(categories))
    chosen = tuple(targets or _targets(kinds))
    drawn, real, held = (each.detach().cpu().double().numpy() for each in rows.values())
    generator = np.random.default_rng(checks.count("seed", seed, minimum=0))
    count = min(len(drawn), len(real))
    drawn = drawn[generator.permutation(len(drawn))[:count]]
    real = real[generator.permutation(len(real))[:count]]
    independent = np.stack([generator.permutation(column) for column in real.T], 1)
    of_samples, of_real, of_independent = (
        _quality(each, held, real, kinds, chosen, seed) for each in (drawn, real, independent)
    )
    return SampleQuality(of_samples, of_real, of_independent, chosen, count, len(held))


def _targets(kinds: np.ndarray) -> list[int]:
    if len(kinds) < 2:
        return []
    order = [*np.flatnonzero(kinds), *np.flatnonzero(~kinds)]
    return sorted(int(column) for column in order[:8])


def _quality(
    rows: np.ndarray, held: np.ndarray, real: np.ndarray, kinds: np.ndarray, targets: Sequence[int], seed: int
) -> RowsQuality:
    shapes = tuple(
        1 - (_variation if category else _largest_gap)(rows[:, n], held[:, n])
        for n, category in enumerate(kinds)
    )
    right, total, r2 = 0, 0, []
    for target in targets:
        score = _learned(rows[:_LEARNED_FROM], held, target, bool(kinds[target]), seed)
        if kinds[target]:
            right, total = right + round(score * len(held)), total + len(held)
        elif held[:, target].std() > 0:
            r2.append(score)
    accuracy = right / total if total else math.nan
    error = math.sqrt(accuracy * (1 - accuracy) / total) if total else math.nan
    pairs = _pairs(rows, held, real, kinds)
    return RowsQuality(shapes, pairs, accuracy, error, float(np.mean(r2 or [math.nan])))


def _largest_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance sup |F_a − F_b|."""
    places = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(each), places, "right") / len(each) for each in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the total variation distance ½ Σ |p_a − p_b|."""
    _, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    shares = [
        np.bincount(each, minlength=codes.max() + 1) / len(each)
        for each in (codes[: len(a)], codes[len(a) :])
    ]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _pairs(rows: np.ndarray, held: np.ndarray, real: np.ndarray, kinds: np.ndarray) -> float:
    both, count = np.concatenate([rows, held]), len(rows)
    codes = [
        np.unique(column, return_inverse=True)[1]
        if category
        else np.searchsorted(np.quantile(own, np.linspace(0, 1, _BINS + 1)[1:-1]), column)
        for column, own, category in zip(both.T, real.T, kinds, strict=True)
    ]
    distance = np.abs(_correlations(rows) - _correlations(held)) / 2
    found = []
    for a, b in combinations(range(len(kinds)), 2):
        if kinds[a] or kinds[b]:
            cells = codes[a] * (int(codes[b].max()) + 1) + codes[b]  # numbers the cells of the joint table
            found.append(1 - _variation(cells[:count], cells[count:]))
        else:
            found.append(1 - distance[a, b])
    return float(np.mean(found)) if found else math.nan


def _correlations(rows: np.ndarray) -> np.ndarray:
    """Return Pearson's correlations [D, D]; 0 where a column is constant."""
    deviation = rows - rows.mean(0)
    length = np.sqrt((deviation**2).sum(0))
    scaled = deviation / np.where(length > 0, length, 1.0)
    return np.asarray(scaled.T @ scaled)


def _learned(rows: np.ndarray, held: np.ndarray, target: int, category: bool, seed: int) -> float:
    """Return accuracy or R² on held-out rows of a forest trained on ``rows``."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if category else RandomForestRegressor
    others = np.arange(rows.shape[1]) != target
    forest = kind(_TREES, min_samples_leaf=5, max_features=0.5, random_state=seed)
    forest.fit(rows[:, others], rows[:, target])
    return float(forest.score(held[:, others], held[:, target]))
