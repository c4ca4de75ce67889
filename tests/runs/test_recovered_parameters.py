"""Each likelihood trains by the command line on a generated file, and samples have the known parameters."""

import numpy as np
import pandas as pd
import pytest
import torch
from commands import call
from scipy import stats

from pyro_dvae.jobs.folder import load_run

ROWS = 1500
SMALL = ["--width", "16", "--latent-size", "1", "--importance-samples", "0", "--quiet", "--output", "run"]
SMALL += ["--learning-rate", "0.01", "--batch-size", "100"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sampled(*options, count=6000):
    """Train, and return rows drawn from the model in the units of the file."""
    call("train", *SMALL, *options)
    call("sample", "run", "--count", count, "--pixels", "--output", "drawn.parquet")
    return pd.read_parquet("drawn.parquet")


def table():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "code": generator.choice([3, 7, 9], ROWS, p=[0.2, 0.3, 0.5]),
            "rating": generator.choice([1, 2, 3, 4], ROWS, p=[0.1, 0.4, 0.3, 0.2]),
            "income": np.exp(generator.normal(8.0, 0.5, ROWS)),
            "error": 3 + 2 * generator.standard_t(3, ROWS),
            "height": generator.normal(170, 7, ROWS),
            "visits": generator.negative_binomial(2, 2 / (2 + 6), ROWS),  # mean 6, dispersion ½
            "smokes": generator.binomial(1, 0.3, ROWS),
        }
    )


def test_the_kinds_of_a_table():
    table().to_csv("table.csv", index=False)
    kinds = "code=categorical,rating=ordinal,income=positive,error=heavy-tailed,visits=count"
    drawn = sampled("--dataset", "table.csv", "--kinds", kinds, "--epochs", "40", "--noise", "0")
    codes = drawn.code.value_counts(normalize=True)
    np.testing.assert_allclose([codes[level] for level in "379"], [0.2, 0.3, 0.5], atol=0.06)
    ratings = drawn.rating.value_counts(normalize=True)
    np.testing.assert_allclose([ratings[level] for level in (1, 2, 3, 4)], [0.1, 0.4, 0.3, 0.2], atol=0.06)
    assert np.log(drawn.income).mean() == pytest.approx(8.0, abs=0.06)
    assert np.log(drawn.income).std() == pytest.approx(0.5, abs=0.06)
    assert drawn.error.median() == pytest.approx(3.0, abs=0.3)
    inner, outer = (drawn.error.quantile(1 - q) - drawn.error.quantile(q) for q in (0.25, 0.01))
    t = stats.t(3)
    assert inner == pytest.approx(2 * (t.ppf(0.75) - t.ppf(0.25)), rel=0.12)
    assert outer == pytest.approx(2 * (t.ppf(0.99) - t.ppf(0.01)), rel=0.25)
    assert drawn.height.mean() == pytest.approx(170, abs=0.8)
    assert drawn.height.std() == pytest.approx(7, rel=0.1)
    assert drawn.visits.mean() == pytest.approx(6, rel=0.1)
    assert drawn.visits.var() == pytest.approx(6 + 0.5 * 36, rel=0.25)
    assert drawn.smokes.mean() == pytest.approx(0.3, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["full-covariance", "low-rank-covariance"])
def test_a_covariance(likelihood):
    mean, factor = np.array([1.0, -20.0, 300.0]), np.array([[1.0, 0, 0], [3.0, 4.0, 0], [0, 30.0, 40.0]])
    rows = mean + np.random.default_rng(0).normal(size=(ROWS, 3)) @ factor.T
    pd.DataFrame(rows, columns=list("abc")).to_csv("rows.csv", index=False)
    options = ["--dataset", "rows.csv", "--likelihood", likelihood, "--noise-kind", "gaussian"]
    drawn = sampled(*options, "--epochs", "60").to_numpy()
    scale = np.sqrt(np.diag(factor @ factor.T))
    np.testing.assert_allclose((drawn.mean(0) - mean) / scale, 0, atol=0.15)
    expected = factor @ factor.T / np.outer(scale, scale)
    np.testing.assert_allclose(np.cov(drawn.T) / np.outer(scale, scale), expected, atol=0.15)


@pytest.mark.slow
def test_a_dirichlet_multinomial():
    generator = np.random.default_rng(0)
    shares, spread = np.array([0.1, 0.2, 0.3, 0.4]), 0.05
    rates = generator.dirichlet(shares / spread, ROWS)
    np.save("counts.npy", np.stack([generator.multinomial(100, rate) for rate in rates]))
    options = ["--dataset", "counts.npy", "--scale", "none", "--likelihood", "dirichlet-multinomial"]
    drawn = sampled(*options, "--noise-kind", "thinning", "--epochs", "40").to_numpy()
    np.testing.assert_allclose(drawn.mean(0) / 100, shares, atol=0.02)
    # Overdispersed: Var(x / n) = p (1 − p) (1 + (n − 1) ρ) / n, ρ = φ / (1 + φ).
    variance = shares * (1 - shares) * (1 + 99 * spread / (1 + spread)) / 100
    np.testing.assert_allclose(drawn.var(0) / 100**2, variance, rtol=0.25)
    assert 0.02 < float(load_run("run")[0].model.decoder.spread.detach()) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["discretised-logistic", "discretised-logistic-mixture"])
def test_levels_of_colour(likelihood):
    centres = torch.tensor([60.0, 120.0, 180.0]).repeat_interleave(4)
    logistic = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(12), 1.0),
        [torch.distributions.transforms.SigmoidTransform().inv],
    )
    torch.manual_seed(0)
    values = (centres + 8 * logistic.sample((ROWS,))).round().clamp(0, 255)
    np.save("colour.npy", values.reshape(-1, 3, 2, 2).byte().numpy())
    options = ["--dataset", "colour.npy", "--scale", "bytes", "--likelihood", likelihood]
    drawn = sampled(*options, "--noise-kind", "gaussian", "--epochs", "60").to_numpy()
    assert np.array_equal(drawn, drawn.round())
    np.testing.assert_allclose(drawn.mean(0), centres, atol=3)
    np.testing.assert_allclose(drawn.std(0), 8 * np.pi / np.sqrt(3), rtol=0.2)


def test_kinds_that_do_not_fit_are_refused(capsys):
    table().to_csv("table.csv", index=False)
    cases = {
        "code=vegetable": "kinds: unknown name 'vegetable'",
        "code": "kinds: expected NAME=KIND, separated by commas, got 'code'",
        "age=count": "there is no column 'age'",
        "error=positive": "column 'error' was declared positive, but holds -",
        "height=ordinal": "column 'height' was declared ordinal, but holds numbers that are not whole",
    }
    for kinds, words in cases.items():
        capsys.readouterr()
        call("train", "--dataset", "table.csv", "--kinds", kinds, *SMALL, code=2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line
