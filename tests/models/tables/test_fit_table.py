"""The model of a table against closed forms: conditionals, maximum likelihood, weights, intervals."""

import io
import math
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.distributions import MultivariateNormal

import pyro_dvae as dv
from pyro_dvae.distributions.gaps import completed
from pyro_dvae.distributions.gaussian_mixture import GaussianMixture
from pyro_dvae.errors import InputError
from pyro_dvae.models.tables.em import gaussian_mixture
from pyro_dvae.models.tables.fitting import stacked
from pyro_dvae.models.tables.tail_probability import TailProbability

D = 4


def random_mixture(components=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    loc = 2 * torch.randn(components, D, dtype=torch.float64, generator=generator)
    factor = torch.randn(components, D, D, dtype=torch.float64, generator=generator)
    covariance = factor @ factor.mT / D + 0.2 * torch.eye(D, dtype=torch.float64)
    return GaussianMixture(torch.arange(components).double(), loc, covariance)


def with_holes(mixture, count=300, missing=0.3, seed=1):
    torch.manual_seed(seed)
    x = mixture.sample((count,))
    return x, x.masked_fill(torch.rand(x.shape) < missing, torch.nan)


def parts(mixture, row):
    """Return log π_k N_k(x_observed), and mean and covariance of the missing cells of each component."""
    found = [
        completed(loc, covariance, row)
        for loc, covariance in zip(mixture.loc, mixture.covariance, strict=True)
    ]
    joint = torch.stack([each.log_prob for each in found]) + mixture.logits
    return joint, torch.stack([each.mean for each in found]), torch.stack([each.covariance for each in found])


@pytest.mark.parametrize("components", [1, 3])
def test_the_conditionals_of_a_mixture_weight_those_of_its_components_by_bayes(components):
    mixture = random_mixture(components)
    x = with_holes(mixture, 6)[1]
    x[0] = torch.nan
    seen, filled = ~x.isnan(), x.nan_to_num()
    evidence, means = mixture.observed_log_prob(filled, seen), mixture.expected(filled, seen)
    draws = mixture.drawn(filled, seen, 40_000)
    for row in range(len(x)):
        joint, mean, covariance = parts(mixture, x[row])
        weight = joint.softmax(0)
        expected = weight @ mean
        torch.testing.assert_close(evidence[row], joint.logsumexp(0))
        torch.testing.assert_close(means[row], expected)
        centred = mean - expected
        exact = torch.einsum("k,kij->ij", weight, covariance + centred[:, :, None] * centred[:, None, :])
        error = 5 * (exact.diagonal().sqrt() / math.sqrt(len(draws))).clamp(min=1e-12)
        assert bool(((draws[:, row].mean(0) - expected).abs() <= error).all())
        torch.testing.assert_close(draws[:, row].T.cov(), exact, rtol=0, atol=0.1 * float(exact.max()) + 1e-9)


def test_the_density_of_whole_rows_and_of_the_pyro_model():
    mixture = random_mixture(3)
    x, gaps = with_holes(mixture, 20)
    each = [
        MultivariateNormal(m, c).log_prob(x) for m, c in zip(mixture.loc, mixture.covariance, strict=True)
    ]
    exact = (torch.stack(each, -1) + mixture.logits).logsumexp(-1)
    torch.testing.assert_close(mixture.log_prob(x), exact)
    fitted = dv.fit_table(gaps, seed=0, progress=False)
    standardised = (gaps - fitted.loc) / fitted.scale
    model, guide = dv.with_gaps(fitted.model, lambda x: None)
    bound = -Trace_ELBO().loss(model, guide, *dv.fill_gaps(standardised))
    volume = ((~gaps.isnan()).double() @ fitted.scale.log()).sum()
    assert bound == pytest.approx(float(fitted.log_likelihood(gaps).sum() + volume))


def test_one_gaussian_maximises_the_penalised_likelihood_of_the_observed_cells():
    ridge = 0.05
    x = with_holes(random_mixture(1), 200)[1]
    found = gaussian_mixture(x, ridge=ridge, num_steps=2000, tolerance=0.0)
    seen, filled = ~x.isnan(), x.nan_to_num()
    loc = torch.zeros(1, D, dtype=torch.float64, requires_grad=True)
    raw = torch.eye(D, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [loc, raw], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def objective(loc, covariance):
        likelihood = GaussianMixture(loc.new_zeros(1), loc, covariance).observed_log_prob(filled, seen).sum()
        return 0.5 * len(x) * ridge * torch.linalg.inv(covariance).diagonal(dim1=1, dim2=2).sum() - likelihood

    def closure():
        optimizer.zero_grad()
        loss = objective(loc, (raw @ raw.T).unsqueeze(0))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(found.loc, loc.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.covariance[0], (raw @ raw.T).detach(), atol=1e-5, rtol=0)


def test_a_mixture_without_prior_and_noise_is_a_maximum_of_the_likelihood_of_the_observed_cells():
    x = with_holes(random_mixture(2), 400)[1]
    torch.manual_seed(0)
    found = gaussian_mixture(x, 2, ridge=0.0, prior=0.0, num_steps=3000, tolerance=0.0)
    leaves = [each.clone().requires_grad_() for each in (found.logits, found.loc, found.covariance)]
    value = GaussianMixture(*leaves).observed_log_prob(x.nan_to_num(), ~x.isnan()).mean()
    for slope in torch.autograd.grad(value, leaves):
        assert float(slope.abs().max()) < 1e-4
    exact = random_mixture(2).observed_log_prob(x.nan_to_num(), ~x.isnan()).mean()
    assert float(value.detach()) > float(exact)


def test_the_weights_have_the_least_squared_error_on_the_simplex():
    torch.manual_seed(0)
    truth = torch.randn(500, dtype=torch.float64)
    noise = torch.randn(500, 3, dtype=torch.float64)
    noise[:, 2] += noise[:, 0]  # the first one with more noise
    predictions = truth.unsqueeze(1) + noise
    weight = stacked(predictions, truth)
    assert float(weight.sum()) == pytest.approx(1.0)
    slope = predictions.T @ (predictions @ weight - truth)
    used = weight > 0
    assert used.tolist() == [True, True, False]
    torch.testing.assert_close(slope[used], slope[used].mean().expand(int(used.sum())), rtol=0, atol=1e-6)
    assert bool((slope[~used] > slope[used].mean()).all())
    assert stacked(torch.stack([truth, -truth], 1), truth).tolist() == [1.0, 0.0]


def test_a_table_of_two_clusters_is_filled_nearly_as_well_as_by_the_truth_and_intervals_cover():
    mixture = random_mixture(2, seed=3)
    truth, x = with_holes(mixture, 300, 0.4)
    missing = x.isnan()
    fitted = dv.fit_table(x, seed=0, progress=False)
    found = fitted.condition(x, num_draws=200, seed=0)
    best = mixture.expected(x.nan_to_num(), ~missing)
    error = (found.mean - truth)[missing].square().mean()
    assert float(error) < 1.15 * float((best - truth)[missing].square().mean())
    low, high = found.interval(0.9)
    covered = ((truth >= low) & (truth <= high))[missing].double().mean()
    assert abs(float(covered) - 0.9) < 0.05  # of 480 cells the error is 0.014
    assert torch.equal(found.mean[~missing], x[~missing])
    torch.testing.assert_close(found.draws.mean(0), found.mean, atol=0.6, rtol=0)


def test_the_verbs_of_a_fitted_table():
    x = with_holes(random_mixture(2), 120)[1]
    state = torch.get_rng_state()
    fitted = dv.fit_table(x, seed=0, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(dv.fit_table(x, seed=0, progress=False).impute(x, seed=1), fitted.impute(x, seed=1))
    missing = x.isnan()
    found = fitted.condition(x, num_draws=10, seed=1)
    assert torch.equal(fitted.impute(x, seed=1, num_draws=10), found.mean)
    assert torch.equal(fitted.impute(x, how="median", seed=1, num_draws=10), found.quantile(0.5))
    assert torch.equal(fitted.impute(x, how="draw", num_imputations=10, seed=1), found.draws)
    assert torch.equal(fitted.sample_given(x, num_draws=10, seed=1), found.draws)
    assert not bool(found.mean.isnan().any())
    assert bool(found.reliable.all())
    assert "missing cells" in str(found)
    torch.testing.assert_close(found.log_likelihood, fitted.log_likelihood(x))
    prediction = fitted.predict(x, columns=[2], seed=1)
    hidden = x.clone()
    hidden[:, 2] = torch.nan
    torch.testing.assert_close(prediction.mean[:, 0], fitted.impute(hidden, seed=1)[:, 2])
    by_column = fitted.anomaly_score(x, by="column")
    expected = fitted.log_likelihood(hidden) - fitted.log_likelihood(x)
    assert torch.equal(by_column.isnan(), missing)
    torch.testing.assert_close(by_column[~missing[:, 2], 2], expected[~missing[:, 2]])
    assert fitted.sample(7, seed=0).shape == (7, D)
    assert "together" in str(fitted)
    again = pickle.loads(pickle.dumps(fitted))
    assert torch.equal(again.impute(x, seed=1), fitted.impute(x, seed=1))
    file = io.BytesIO()
    torch.save(fitted, file)


@pytest.mark.parametrize("factor", [(1.0, 10.0, 0.1, 2.0), (1e200, 1.0, 1e-200, 1e306)])
def test_units_of_the_data(factor):
    """A change of units changes what is returned, and densities by its Jacobian."""
    x = with_holes(random_mixture(2), 120)[1]
    factor = torch.tensor(factor, dtype=torch.float64)
    shift = factor * torch.tensor([5.0, 0.0, -30.0, 0.0])
    one, two = (dv.fit_table(each, seed=0, progress=False) for each in (x, x * factor + shift))
    torch.testing.assert_close(two.impute(x * factor + shift, seed=1), one.impute(x, seed=1) * factor + shift)
    volume = (~x.isnan()).double() @ factor.log()
    torch.testing.assert_close(two.log_likelihood(x * factor + shift), one.log_likelihood(x) - volume)


@pytest.mark.parametrize("kind", ["array", "masked", "frame"])
def test_rows_of_other_kinds(kind):
    x = with_holes(random_mixture(2), 60)[1].numpy()
    if kind == "masked":
        given = np.ma.masked_invalid(x)
    elif kind == "frame":
        given = pytest.importorskip("pandas").DataFrame(x)
    else:
        given = x
    fitted = dv.fit_table(given, seed=0, progress=False)
    assert not bool(fitted.impute(given, seed=0).isnan().any())


def test_odd_tables():
    constant = torch.cat([torch.randn(30, 2), torch.ones(30, 1)], 1)
    fitted = dv.fit_table(constant, seed=0, progress=False)
    hidden = constant.clone()
    hidden[:, 2] = torch.nan
    torch.testing.assert_close(fitted.impute(hidden, seed=0)[:, 2], torch.ones(30), atol=0.02, rtol=0)
    few = dv.fit_table(torch.randn(2, 3), seed=0, progress=False)
    assert few.impute(torch.full((1, 3), torch.nan), seed=0).shape == (1, 3)
    with pytest.raises(InputError, match="columns \\[1\\]"):
        dv.fit_table(torch.tensor([[1.0, torch.nan], [2.0, torch.nan]]))
    with pytest.raises(InputError, match="rows of columns"):
        dv.fit_table(torch.zeros(3))
    with pytest.raises(InputError, match=r"rows \[N, 3\]"):
        few.impute(torch.zeros(2, 2))


def test_the_rounding_of_a_mean_is_no_spread():
    """The mean of 60 cells of 98.6 is not 98.6, but their density does not depend on their value."""
    rows = torch.cat([torch.randn(60, 1), torch.ones(60, 1)], 1).double()
    scores = []
    for value in (0.5, 98.6):
        rows[:, 1] = value
        fitted = dv.fit_table(rows, seed=0, progress=False)
        assert float(fitted.scale[1]) == 1
        scores.append(fitted.log_likelihood(rows))
    torch.testing.assert_close(*scores)


def test_a_row_is_as_odd_as_its_tail_probability_under_the_model_that_finds_it_oddest():
    rows = random_mixture(2).sample((400,))
    mixtures = [random_mixture(2), random_mixture(1, seed=5)]
    odd = TailProbability.among(mixtures, rows)
    usual = [(-each.log_prob(rows)).sort().values for each in mixtures]
    found = odd(rows)
    for row, score in zip(rows[:50], found[:50], strict=True):
        exact = []
        for each, training in zip(mixtures, usual, strict=True):
            value = -each.log_prob(row)
            start = training[320]  # the upper fifth
            excess = (training[320:] - start).mean()
            share = (1 + (training >= value).sum()) / 401
            exact.append(math.log(5) + (value - start) / excess if value > start else -share.log())
        assert float(score) == pytest.approx(float(max(exact)), abs=0.01)
    far = odd(torch.full((1, D), 50.0).double())
    assert float(far) > float(found.max())
    gaps = rows.clone()
    gaps[:, 1:] = torch.nan  # the more is missing, the less odd a row can be
    assert float(odd(gaps).max()) < float(found.max())


def test_anomalies_of_a_table_score_higher():
    x = with_holes(random_mixture(2), 200, 0.0)[0]
    fitted = dv.fit_table(x, seed=0, progress=False)
    strange = x[:50].flip(0) * torch.tensor([1.0, -1.0, 1.0, -1.0]).double() + 6
    assert float(fitted.anomaly_score(strange).median()) > float(fitted.anomaly_score(x).quantile(0.99))
    assert torch.equal(fitted.anomaly_score(strange), fitted.anomaly_score(strange))


def test_a_table_keeps_the_names_of_its_columns_and_every_digit_of_its_cells():
    torch.manual_seed(0)
    x = torch.randn(60, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    x[:, 1] += 1_700_000_000  # a time in seconds, which float32 holds to 128
    frame = pd.DataFrame(x.numpy(), columns=["a", "time", "c"])
    fitted, plain = (dv.fit_table(each, seed=0, progress=False) for each in (frame, x))
    gaps = frame.copy()
    gaps.loc[::2, "a"] = np.nan
    expected = plain.impute(torch.tensor(gaps.to_numpy()), seed=1)
    assert torch.equal(fitted.impute(gaps, seed=1), expected)
    assert torch.equal(expected[:, 1], x[:, 1])
    assert (fitted.sample(50, seed=0)[:, 1] - x[:, 1].mean()).abs().max() < 20
    assert torch.equal(fitted.predict(frame, columns=["c", "a"]).mean, fitted.predict(x, columns=[2, 0]).mean)
    calls = [fitted.impute, fitted.log_likelihood, fitted.anomaly_score, fitted.condition]
    calls += [partial(fitted.anomaly_score, by="column"), partial(fitted.predict, columns=[0])]
    for call in calls:
        with pytest.raises(
            InputError, match=r"^data: .* got 'c' in place of 'a' at position 0; choose them by name"
        ):
            call(frame[["c", "time", "a"]])


def test_the_score_of_a_row_with_gaps_does_not_depend_on_the_others():
    mixture = random_mixture(3)
    x = with_holes(mixture, 40)[1]
    score = TailProbability.among([mixture, random_mixture(2, 5)], with_holes(mixture, 200)[1])
    whole = score(x)
    torch.testing.assert_close(torch.cat([score(row) for row in x.split(1)]), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(score(x.flip(0)).flip(0), whole, rtol=1e-10, atol=1e-10)


def test_draws_of_shared_noise_have_the_conditional_distribution():
    mixture = random_mixture(3)
    row = torch.tensor([[torch.nan, 0.3, torch.nan, -0.2]], dtype=torch.float64)
    joint, means, covariances = parts(mixture, row[0])
    weight = joint.softmax(0)
    mean = weight @ means
    spread = means - mean
    covariance = torch.einsum("k,kij->ij", weight, covariances + spread[:, :, None] * spread[:, None])
    draws = mixture.drawn(row.nan_to_num().expand(2, -1), (~row.isnan()).expand(2, -1), 40_000, shared=True)
    assert torch.equal(draws[:, 0], draws[:, 1])
    gaps = draws[:, 0, [0, 2]]
    scale = covariance.diagonal().sqrt()[[0, 2]]
    assert ((gaps.mean(0) - mean[[0, 2]]).abs() < 5 * scale / 200).all()
    torch.testing.assert_close(gaps.std(0), scale, rtol=0.03, atol=0)


def test_a_row_too_far_for_the_numbers_is_marked_and_the_others_are_imputed():
    x = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(1)
    table = dv.fit_table(x, seed=0, progress=False)
    rows = x[:3].clone()
    rows[:, 1] = math.nan
    wanted = table.impute(rows, seed=0)
    rows[1, 0] = 1e200
    assert table.condition(rows, seed=0).reliable.tolist() == [True, False, True]
    with pytest.warns(UserWarning, match=r"the missing cells of 1 row \(of 3 with gaps\) are not reliable"):
        found = table.impute(rows, seed=0)
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]])
