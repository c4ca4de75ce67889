"""``pyro-dvae train`` on a generated file of counts: every likelihood trains and recovers the parameters."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call

from pyro_dvae.jobs.folder import load_run
from pyro_dvae.jobs.options import COUNTS

SHARES, DISPERSION, EXTRA_ZEROS = np.array([0.1, 0.2, 0.3, 0.4]), 0.25, np.array([0.1, 0.2, 0.4, 0.6])
SMALL = ["--width", "16", "--latent-size", "2", "--importance-samples", "5", "--quiet", "--output", "run"]
SMALL += ["--scale", "none", "--noise-kind", "thinning", "--noise", "0.2", "--batch-size", "50"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    mean = generator.integers(30, 200, 600)[:, None] * SHARES
    r = 1 / DISPERSION
    np.save("counts.npy", generator.negative_binomial(r, r / (r + mean)))


def train(likelihood, *more):
    call("train", "--dataset", "counts.npy", "--likelihood", likelihood, *SMALL, *more)
    return json.loads(Path("run/results.json").read_text())


@pytest.mark.slow
def test_the_command_finds_the_shares_and_the_dispersion():
    train("negative-binomial", "--epochs", "40", "--learning-rate", "0.01")
    decoder = load_run("run")[0].model.decoder
    with torch.no_grad():
        shares = decoder(torch.randn(500, 2)).mean.mean(0) / decoder.typical_total
    np.testing.assert_allclose(shares, SHARES, atol=0.03)
    # The row's own total is known, so the counts vary less than around means of the true depth.
    assert 0.1 < float(decoder.dispersion.detach().mean()) < 0.3


@pytest.mark.parametrize("likelihood", ["poisson", "multinomial", "dirichlet-multinomial"])
def test_every_likelihood_of_counts_finds_the_shares(likelihood):
    train(likelihood, "--epochs", "15", "--learning-rate", "0.01")
    decoder = load_run("run")[0].model.decoder
    with torch.no_grad():
        shares = decoder(torch.randn(500, 2)).mean.mean(0) / decoder.typical_total
    np.testing.assert_allclose(shares, SHARES, atol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["zero-inflated-negative-binomial", "zero-inflated-poisson"])
def test_the_command_finds_extra_zeros(likelihood):
    kept = np.random.default_rng(1).random((600, 4)) > EXTRA_ZEROS
    np.save("counts.npy", np.load("counts.npy") * kept)
    train(likelihood, "--epochs", "40", "--learning-rate", "0.01")
    decoder = load_run("run")[0].model.decoder
    with torch.no_grad():
        gates = decoder.gate_head(decoder.trunk(torch.randn(500, 2))).sigmoid().mean(0)
    np.testing.assert_allclose(gates, EXTRA_ZEROS, atol=0.08)


def test_every_likelihood_of_counts_is_tested_here():
    tested = {"poisson", "multinomial", "dirichlet-multinomial", "negative-binomial"}
    assert set(COUNTS) == tested | {"zero-inflated-poisson", "zero-inflated-negative-binomial"}
