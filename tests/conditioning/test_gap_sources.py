"""The conditional verbs take every source of rows, with labels, and give what a tensor of them gives."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_dvae as dv

pytestmark = pytest.mark.filterwarnings("ignore:the (missing cells|scores) of")  # few draws

N, D = 11, 3
FAST = {"num_samples": 30, "refine": False, "seed": 0, "progress": False}


@pytest.fixture(autouse=True)
def _clear():
    pyro.clear_param_store()
    torch.manual_seed(0)


class Shifted(nn.Module):
    """x ~ N(W z + y + shift, 1) with labels y and a constant shift."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, D))

    def model(self, x, y, shift=0.0):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w + y[:, None] + shift, 1).to_event(1), obs=x)

    def guide(self, x, y, shift=0.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - y[:, None] - shift) @ self.w.T / 3, 0.7).to_event(1))


VERBS = {
    "condition": lambda pair, *data, **more: dv.condition(*pair, *data, **FAST, **more).mean,
    "impute": lambda pair, *data, **more: dv.impute(*pair, *data, **FAST, **more),
    "predict": lambda pair, *data, **more: dv.predict(*pair, *data, columns=[1], **FAST, **more).mean,
    "sample_given": lambda pair, *data, **more: dv.sample_given(*pair, *data, num_draws=2, **FAST, **more),
    "score": lambda pair, *data, **more: dv.anomaly_score(*pair, *data, **FAST, **more),
    "score of cells": lambda pair, *data, **more: dv.anomaly_score(*pair, *data, by="column", **FAST, **more),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_source_with_gaps_and_labels(verb, tmp_path):
    made, x, y = Shifted(), torch.randn(N, D), torch.randn(N)
    x[::3, 1] = math.nan
    np.save(tmp_path / "x.npy", x.numpy())
    pair = (made.model, made.guide)
    expected = VERBS[verb](pair, x, y)
    sources = {
        "array": (x.numpy(), y),
        "array on disk": (np.load(tmp_path / "x.npy", mmap_mode="r"), y),
        "frame": (pd.DataFrame(x.numpy()), y.numpy()),
        "data set with labels": (TensorDataset(x, y),),
        "loader with labels": (DataLoader(TensorDataset(x, y), batch_size=4),),
    }
    for name, data in sources.items():
        assert torch.equal(VERBS[verb](pair, *data).nan_to_num(), expected.nan_to_num()), name


@pytest.mark.slow
def test_scores_of_an_array_on_disk_are_read_in_portions(tmp_path, monkeypatch):
    made, x, y = Shifted(), torch.randn(N, D), torch.zeros(N)
    np.save(tmp_path / "x.npy", x.numpy())
    data = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr("pyro_dvae.conditioning.scores._ROWS", 4)
    options = FAST | {"num_samples": 2000}
    found = dv.anomaly_score(made.model, made.guide, data, y, memory=1, **options)  # four rows at a time
    whole = dv.anomaly_score(made.model, made.guide, x, y, **options)
    assert found.shape == (N,)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.6)
    with pytest.raises(dv.InputError, match="args: expected 11 rows, as in data, got 3"):
        dv.anomaly_score(made.model, made.guide, data, y[:3], **options)


@pytest.mark.parametrize("method", ["likelihood", "regret", "reconstruction"])
def test_every_score_takes_constants_of_the_model_and_a_budget_of_memory(method):
    made, x, y = Shifted(), torch.randn(N, D), torch.zeros(N)
    options = FAST | {"method": method, "memory": 2**20, "refine": 5}
    if method != "reconstruction":
        options["compile"] = False
    moved = dv.anomaly_score(made.model, made.guide, x + 2, y, shift=2.0, **options)
    torch.testing.assert_close(
        moved, dv.anomaly_score(made.model, made.guide, x, y, **options), rtol=1e-3, atol=1e-3
    )
