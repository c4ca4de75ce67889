"""The gaps of inference against their closed forms in a linear-Gaussian model."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from exact import LinearGaussian

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:the (missing cells|scores) of")  # few draws


def problem():
    made = LinearGaussian(data_size=4, latent_size=3, sigma=0.4)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return made, x


def exact(made, x):
    """Return log p(x), the encoder's bound on clean input and the bound of the best diagonal Gaussian."""
    with torch.no_grad():
        evidence = made.log_evidence(x)
        precision = torch.eye(3, dtype=torch.float64) + made.W.T @ made.W / (2 * made.log_s).exp()
        mean = torch.linalg.solve(precision, (x - made.b) @ made.W / (2 * made.log_s).exp(), left=False)
        covariance = torch.linalg.inv(precision)

        def divergence(loc, variance):
            distance = ((loc - mean) @ precision * (loc - mean)).sum(-1)
            trace = (precision.diagonal() * variance).sum()
            return 0.5 * (trace - 3 + distance + covariance.logdet() - variance.log().sum())

        encoder = evidence - divergence(x @ made.A.T + made.c, made.log_v.exp())
        return evidence, encoder, evidence - divergence(mean, 1 / precision.diagonal())


SETTINGS = dv.Refinement(num_steps=400, num_draws=16, learning_rate=0.05)


@pytest.fixture(scope="module")
def found():
    made, x = problem()
    return dv.inference_gaps(made.model, made.guide, x, refine=SETTINGS, num_samples=4000, seed=0)


def test_the_bounds_and_gaps_of_a_linear_gaussian_model(found):
    evidence, encoder, diagonal = exact(*problem())
    assert bool(((found.encoder - encoder).abs() < 5 * found.errors["encoder"]).all())
    assert bool(((found.diagonal - diagonal).abs() < 5 * found.errors["diagonal"] + 0.01).all())
    # The posterior is a full Gaussian: its log weights do not vary.
    torch.testing.assert_close(found.full, evidence, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.log_likelihood, evidence, rtol=0, atol=0.05)
    torch.testing.assert_close(found.approximation("full").double(), evidence * 0, rtol=0, atol=0.05)
    gap = (found.approximation() + found.amortisation()) - (evidence - encoder)
    assert bool((gap.abs() < 5 * found.errors["encoder"] + 0.05).all())
    assert not bool(found.annealed.any())


def test_the_record_prints_and_draws(found, tmp_path):
    assert "amortisation gap, diagonal" in str(found)
    assert found.to_dict()["num_data"] == 6
    assert len(found) == 6
    axes = plots.inference_gaps({"training": found.means(), "test": found.means()})
    path = plots.write_figure(tmp_path / "gaps.png", axes)
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="gaps: expected"):
        plots.inference_gaps({})
    with pytest.raises(InputError, match="family: unknown name"):
        found.approximation("flow")


def test_regret_is_the_gain_of_refinement():
    made, x = problem()
    _, encoder, diagonal = exact(made, x)
    options = {"refine": SETTINGS, "num_samples": 4000, "seed": 0}
    regret = dv.anomaly_score(made.model, made.guide, x, method="regret", **options)
    torch.testing.assert_close(regret, diagonal - encoder, rtol=0.05, atol=0.1)
    with pytest.raises(InputError, match="by: regret exists only for whole rows"):
        dv.anomaly_score(made.model, made.guide, x, method="regret", by="column")


def whole(made):
    with torch.no_grad():
        identity = torch.eye(4, dtype=torch.float64)
        return made.W @ made.W.T + (2 * made.log_s).exp() * identity


@pytest.mark.slow
def test_scores_by_likelihood_equal_those_of_the_model():
    made, x = problem()
    x = x.clone()
    x[0, 1] = math.nan
    options = {"refine": dv.Refinement(num_steps=150, annealing_steps=0), "num_samples": 4000, "seed": 0}
    rows = dv.anomaly_score(made.model, made.guide, x, **options)
    expected = -made.log_evidence(x[1:]).detach()
    torch.testing.assert_close(rows[1:], expected, rtol=0, atol=0.1)
    scores = dv.anomaly_score(made.model, made.guide, x[:2], by="column", **options)
    assert math.isnan(scores[0, 1])
    precision = torch.linalg.inv(whole(made))
    # x_j given the rest has variance 1 / Λ_jj and mean x_j − (Λ (x − b))_j / Λ_jj.
    pull = (x[1] - made.b.detach()) @ precision
    variance = 1 / precision.diagonal()
    exact = 0.5 * (pull.square() * variance + (2 * math.pi * variance).log())
    torch.testing.assert_close(scores[1], exact, rtol=0, atol=0.1)


def test_scores_by_reconstruction_are_squared_errors_from_a_corrupted_row():
    made, x = problem()
    with torch.no_grad():
        made.log_v.fill_(-20.0)
    many, options = x.repeat(50, 1), {"method": "reconstruction", "seed": 1}
    score = {by: dv.anomaly_score(made.model, made.guide, many, by=by, **options) for by in ("row", "column")}
    with torch.no_grad():
        loc = (x @ made.A.T + made.c) @ made.W.T + made.b
        spread = 0.4**2 * (made.W @ made.A).square().sum(1)
        expected = (loc - x).square() + spread
    torch.testing.assert_close(score["column"].reshape(50, 6, 4).mean(0), expected, rtol=0.1, atol=0.05)
    torch.testing.assert_close(score["row"], score["column"].sum(1))
    with pytest.raises(InputError, match="method: unknown name"):
        dv.anomaly_score(made.model, made.guide, x, method="density")


FEW = dv.Refinement(num_steps=150, annealing_steps=0)


def test_prediction_imputation_and_conditional_samples_agree_with_the_gaussian():
    made, x = problem()
    sigma, loc = whole(made), made.b.detach()
    gain = sigma[0, 1:] @ torch.linalg.inv(sigma[1:, 1:])
    mean = loc[0] + (x[:, 1:] - loc[1:]) @ gain
    scale = float((sigma[0, 0] - gain @ sigma[1:, 0]).sqrt())
    options = {"refine": FEW, "num_samples": 2000, "seed": 0}
    found = dv.predict(made.model, made.guide, x, columns=[0], level=0.8, num_draws=2000, **options)
    torch.testing.assert_close(found.mean[:, 0], mean, rtol=0, atol=0.1 * scale)
    torch.testing.assert_close(found.low[:, 0], mean - 1.2816 * scale, rtol=0, atol=0.2 * scale)
    torch.testing.assert_close(found.high[:, 0], mean + 1.2816 * scale, rtol=0, atol=0.2 * scale)
    gaps = x.clone()
    gaps[:, 0] = math.nan
    filled = dv.impute(made.model, made.guide, gaps, num_draws=2000, **options)
    assert torch.equal(filled[:, 0], found.mean[:, 0])
    assert torch.equal(filled[:, 1:], x[:, 1:])
    draws = dv.sample_given(made.model, made.guide, gaps, num_draws=500, **options)
    several = dv.impute(made.model, made.guide, gaps, how="draw", num_imputations=500, **options)
    assert torch.equal(draws, several)
    assert dv.impute(made.model, made.guide, gaps, how="draw", **options).shape == x.shape
    median = dv.impute(made.model, made.guide, gaps, how="median", num_draws=2000, **options)
    torch.testing.assert_close(median[:, 0], mean, rtol=0, atol=0.2 * scale)
    with pytest.raises(InputError, match="num_imputations: expected 1 for how='mean'"):
        dv.impute(made.model, made.guide, gaps, num_imputations=2)
    few = {"refine": False, "num_samples": 50, "seed": 0}
    several = dv.predict(made.model, made.guide, x, columns=np.array([2, 0]), **few)
    sorted_ones = dv.predict(made.model, made.guide, x, columns=[0, 2], **few)
    assert several.columns == (2, 0)
    assert torch.equal(several.mean, sorted_ones.mean[:, [1, 0]])
    frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c", "c"])
    by_name = dv.predict(made.model, made.guide, frame, columns=["a"], **few)
    by_position = dv.predict(made.model, made.guide, x, columns=[0], **few)
    assert torch.equal(by_name.high, by_position.high)
    refused = {"expected a sequence": "a", "at most 3": [4], "none twice": [1, 1], "unknown name": ["a"]}
    for message, columns in (*refused.items(), ("at least one", [])):
        with pytest.raises(InputError, match=f"columns: .*{message}"):
            dv.predict(made.model, made.guide, x, columns=columns)
    with pytest.raises(InputError, match="columns: 'c' names several columns; give positions"):
        dv.predict(made.model, made.guide, frame, columns=["c"])
