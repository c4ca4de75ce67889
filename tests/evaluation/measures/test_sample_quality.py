"""Samples compared with real rows: distances against scipy and by hand, and known results of classifiers."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import sample_quality

GENERATOR = np.random.default_rng(0)


def related(rows, noise=0.3, seed=0):
    """A real column, another that follows it, and a category that tells its sign."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    y = x + noise * generator.normal(size=rows)
    return torch.tensor(np.stack([x, y, (x > 0).astype(float)], 1))


def test_shapes_are_one_minus_the_distances():
    samples, train, test = related(300, seed=1), related(300, seed=2), related(200, seed=3)
    samples[:, 2] = torch.tensor([0.0, 1.0, 1.0]).repeat(100)
    found = sample_quality(samples, train, test, categories=[2], targets=[])
    for column in (0, 1):
        distance = ks_2samp(samples[:, column].numpy(), test[:, column].numpy()).statistic
        assert found.samples.shapes[column] == pytest.approx(1 - distance)
    share = float(test[:, 2].mean())
    assert found.samples.shapes[2] == pytest.approx(1 - abs(2 / 3 - share))
    assert found.samples.shape == pytest.approx(np.mean(found.samples.shapes))


def test_pairs_compare_correlations_and_joint_tables():
    samples, test = related(300, noise=2.0, seed=1), related(200, seed=3)
    reals = sample_quality(samples[:, :2], samples[:, :2], test[:, :2], targets=[])
    correlations = [np.corrcoef(each[:, :2].T)[0, 1] for each in (samples.numpy(), test.numpy())]
    assert reals.samples.pairs == pytest.approx(1 - abs(correlations[0] - correlations[1]) / 2)
    first = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    second = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [7.0, 1.0]], dtype=torch.float64)
    tables = sample_quality(first, first, second, categories=[0, 1], targets=[])
    # (0,0): ¼ against ½, (0,1) and (1,0): ¼ against 0, (1,1): as many, (7,1): 0 against ¼.
    assert tables.samples.pairs == pytest.approx(1 - (0.25 + 0.25 + 0.25 + 0.0 + 0.25) / 2)
    assert math.isnan(sample_quality(first[:, :1], first[:, :1], second[:, :1]).samples.pairs)


def test_real_rows_are_the_ceiling_and_independent_columns_the_floor():
    train, test = related(600, seed=1), related(500, seed=2)
    found = sample_quality(related(600, noise=1.0, seed=3), train, test, categories=[2], seed=1)
    assert found.targets == (0, 1, 2)
    assert found.independent.pairs < found.samples.pairs < found.real.pairs
    assert found.independent.r2 < found.samples.r2 < found.real.r2
    assert found.independent.accuracy < found.samples.accuracy
    assert found.real.accuracy > 0.97
    assert abs(found.independent.accuracy - 0.5) < 0.15
    assert found.real.r2 > 0.85  # 1 − 0.09 of the second column, more of the first
    assert found.independent.r2 < 0.1
    assert found.real.shapes == pytest.approx(found.independent.shapes)  # each column is as it was
    same = sample_quality(train, train, test, categories=[2], seed=1)
    assert same.samples.shapes == same.real.shapes
    assert same.samples.pairs == pytest.approx(same.real.pairs)
    error = math.sqrt(found.real.accuracy * (1 - found.real.accuracy) / 500)
    assert found.real.accuracy_error == pytest.approx(error)


def test_the_record_is_text_and_json():
    found = sample_quality(related(60)[:, :2], related(50)[:, :2], related(40)[:, :2])
    assert (found.num_rows, found.num_test) == (50, 40)
    lines = str(found).splitlines()
    assert lines[0].split() == ["columns", "pairs", "accuracy", "R²"]
    assert lines[1].split()[0] == "samples"
    assert lines[1].split()[3] == "-"
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["samples"]["accuracy"] is None
    assert content["real"]["shape"] == pytest.approx(found.real.shape)


def test_rows_that_do_not_fit_are_refused():
    rows = related(20)
    with pytest.raises(InputError, match="samples: expected at least 2 rows of 3 columns, got shape"):
        sample_quality(rows[:, :2], rows, rows)
    with pytest.raises(InputError, match="categories, targets: expected"):
        sample_quality(rows, rows, rows, categories=[3])
