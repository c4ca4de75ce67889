"""Rows with gaps against closed forms: Gaussian models with any pattern of gaps, and pixels by quadrature."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, LinearGaussian
from torch.distributions import MultivariateNormal

import pyro_dvae as dv
from pyro_dvae.errors import InputError

FEW = dv.Refinement(num_steps=150, annealing_steps=0)


class Correlated(LinearGaussian):
    """The same model with a covariance of the noise over the columns."""

    def noise(self):
        size = len(self.b)
        return 0.3 * torch.eye(size, dtype=torch.float64) + 0.2

    def model(self, x):
        zero = torch.zeros(self.W.shape[1], dtype=torch.float64)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.MultivariateNormal(z @ self.W.T + self.b, self.noise()), obs=x)


class LowRank(Correlated):
    def noise(self):
        factor = torch.ones(len(self.b), 1, dtype=torch.float64)
        return 0.2 * factor @ factor.T + 0.3 * torch.eye(len(self.b), dtype=torch.float64)

    def model(self, x):
        zero = torch.zeros(self.W.shape[1], dtype=torch.float64)
        factor = math.sqrt(0.2) * torch.ones(len(self.b), 1, dtype=torch.float64)
        diagonal = torch.full((len(self.b),), 0.3, dtype=torch.float64)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            likelihood = dist.LowRankMultivariateNormal(z @ self.W.T + self.b, factor, diagonal)
            pyro.sample("x", likelihood, obs=x)


def covariance(problem):
    noise = (
        problem.noise()
        if hasattr(problem, "noise")
        else (2 * problem.log_s).exp() * torch.eye(len(problem.b), dtype=torch.float64)
    )
    return (problem.W @ problem.W.T + noise).detach()


def exact(problem, x):
    """Return mean and covariance of the missing cells of a row, and log p(x_observed)."""
    seen, loc, whole = ~x.isnan(), problem.b.detach(), covariance(problem)
    inner = whole[seen][:, seen]
    gain = whole[~seen][:, seen] @ torch.linalg.inv(inner)
    mean = loc[~seen] + gain @ (x[seen] - loc[seen])
    spread = whole[~seen][:, ~seen] - gain @ whole[seen][:, ~seen]
    log_prob = MultivariateNormal(loc[seen], inner).log_prob(x[seen]) if seen.any() else torch.zeros(())
    return mean, spread, log_prob


def rows(size=4):
    """Return a row for each of the 2^size patterns of gaps."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2**size, size, generator=generator, dtype=torch.float64)
    gaps = torch.tensor(list(itertools.product([False, True], repeat=size)))
    return x.masked_fill(gaps, math.nan)


@pytest.mark.parametrize("kind", [LinearGaussian, Correlated, LowRank])
def test_every_pattern_of_gaps_of_a_gaussian_model(kind):
    problem, x = kind(data_size=4, latent_size=2), rows()
    draws = 2000
    found = dv.condition(
        problem.model, problem.guide, x, num_draws=draws, num_samples=3000, refine=FEW, seed=0
    )
    for row, (given, mean, log_prob) in enumerate(zip(x, found.mean, found.log_likelihood, strict=True)):
        gaps = given.isnan()
        wanted, spread, evidence = exact(problem, given)
        assert abs(float(log_prob - evidence)) < 5 * float(found.standard_error[row]) + 1e-9
        assert torch.equal(mean[~gaps], given[~gaps])
        effective = min(float(found.ess[row]), draws)
        error = spread.diagonal().sqrt() / math.sqrt(effective)
        assert bool(((mean[gaps] - wanted).abs() < 5 * error).all())
        cells = found.draws[:, row][:, gaps]
        assert bool(((cells.mean(0) - wanted).abs() < 5 * error).all())
        scale = spread.diagonal().sqrt()
        off = (cells.T.cov().reshape(spread.shape) - spread) / (scale[:, None] * scale)
        assert bool((off.abs() < 8 / math.sqrt(effective)).all())
    assert bool(found.reliable.all())
    assert float(found.ess.min()) > 200
    assert float(found.log_likelihood[-1]) == pytest.approx(0.0, abs=0.02)  # nothing is observed


@pytest.mark.parametrize("num_draws", [19, pytest.param(400, marks=pytest.mark.slow)])
def test_intervals_cover_at_their_nominal_rate(num_draws):
    problem = LinearGaussian(data_size=4, latent_size=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = torch.randn(500, 2, generator=generator, dtype=torch.float64)
        noise = torch.randn(500, 4, generator=generator, dtype=torch.float64)
        truth = z @ problem.W.T + problem.b + problem.log_s.exp() * noise
    order = torch.rand(500, 4, generator=generator).argsort(1)
    x = truth.masked_fill(order < 2, math.nan)
    found = dv.condition(problem.model, problem.guide, x, num_draws=num_draws, refine=FEW, seed=1)
    low, high = found.interval(0.9)
    inside = ((truth >= low) & (truth <= high))[found.missing].double()
    assert len(inside) == 1000
    # Cells of a row depend on each other: the error of 500 pairs.
    error = float(inside.reshape(500, 2).mean(1).std()) / math.sqrt(500)
    assert abs(float(inside.mean()) - 0.9) < 4 * error


def test_a_quantile_of_draws_has_its_share_of_further_draws_below_it():
    """Of R + 1 exchangeable draws, the last is below the h-th of the others with probability h / (R + 1)."""
    draws = torch.arange(1.0, 100.0)[torch.randperm(99), None]  # the h-th is h
    found = dv.Completions(torch.tensor([[math.nan]]), draws, draws[0], draws[0])
    for q in (0.01, 0.05, 0.25, 0.5, 0.9, 0.99):
        assert float(found.quantile(q)) == pytest.approx(100 * q, rel=1e-5)
    assert (float(found.quantile(0)), float(found.quantile(1))) == (1, 99)
    assert [float(end) for end in found.interval(0.98)] == pytest.approx([1, 99], rel=1e-5)
    message = r"^level: expected at most 0.98, .* range of 99 draws, got 0.99; give num_draws=199 or more$"
    with pytest.raises(InputError, match=message):
        found.interval(0.99)
    with pytest.raises(InputError, match=r"got 1$"):
        found.interval(1.0)
    single = dv.Completions(torch.tensor([[math.nan]]), draws[:1], draws[0], draws[0])
    assert float(single.quantile(0.3)) == float(draws[0, 0])


def test_pixels_by_quadrature():
    problem = BinaryProblem(dv.BitFlip(0.1))
    x = torch.tensor([[1.0, math.nan, math.nan], [math.nan, 0.0, 1.0], [math.nan] * 3], dtype=torch.float64)
    found = dv.condition(
        problem.model, problem.guide, x, num_draws=4000, num_samples=4000, refine=FEW, seed=2
    )
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    z = torch.as_tensor(points).reshape(-1, 1)
    weight = torch.as_tensor(weights / weights.sum())
    p = problem.logits(z).detach().sigmoid()
    for row, given in enumerate(x):
        seen = ~given.isnan()
        each = torch.where(seen, torch.where(given == 1, p, 1 - p), 1.0).prod(1)
        evidence = (weight * each).sum()
        wanted = (weight * each) @ p / evidence
        assert (
            abs(float(found.log_likelihood[row] - evidence.log()))
            < 5 * float(found.standard_error[row]) + 1e-9
        )
        torch.testing.assert_close(found.mean[row][~seen], wanted[~seen], rtol=0, atol=0.03)
        torch.testing.assert_close(found.draws[:, row].mean(0)[~seen], wanted[~seen], rtol=0, atol=0.05)
        assert torch.equal(found.mode[row][~seen], (wanted[~seen] > 0.5).double())


def positive(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("amount", dist.LogNormal(z, 0.5).to_event(1), obs=x[:, 1:2])
        pyro.sample("count", dist.Poisson(z.exp()).to_event(1), obs=x[:, :1])


def positive_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, dtype=torch.float64), 1.0).to_event(1))


def test_columns_of_several_sites_keep_their_places_and_supports():
    x = torch.tensor([[math.nan, 2.0], [3.0, math.nan], [1.0, 1.0]], dtype=torch.float64)
    found = dv.condition(positive, positive_guide, x, num_draws=2000, num_samples=2000, refine=FEW, seed=0)
    assert found.draws.shape == (2000, 3, 2)
    counts, amounts = found.draws[:, 0, 0], found.draws[:, 1, 1]
    assert torch.equal(counts, counts.round())
    assert float(counts.min()) >= 0
    assert float(amounts.min()) > 0
    # z | amount = 2 is N(log 2 / 1.25, 0.25 / 1.25), and E exp(z) is in closed form.
    expected = math.exp(math.log(2) / 1.25 + 0.1)
    assert float(found.mean[0, 0]) == pytest.approx(expected, abs=0.1)
    assert torch.equal(found.draws[:, 2], x[2].expand(2000, 2))


def test_a_seed_gives_the_same_draws_and_the_result_prints():
    problem, x = LinearGaussian(data_size=4, latent_size=2), rows()
    few = dv.Refinement(num_steps=5, pilot=50, annealing_steps=0)
    options = {"num_draws": 8, "num_samples": 50, "refine": few}
    found, again = (dv.condition(problem.model, problem.guide, x, seed=4, **options) for _ in range(2))
    assert torch.equal(found.draws.nan_to_num(), again.draws.nan_to_num())
    other = dv.condition(problem.model, problem.guide, x, seed=5, **options)
    assert not torch.equal(other.draws, found.draws)
    assert "32 of 64, 8 draws of each" in str(found)
    assert found.to_dict()["missing_cells"] == 32
    assert len(found) == 16
    assert not found.draws.isnan().any()
    assert torch.equal(found.standard_deviation[~found.missing], torch.zeros(32, dtype=torch.float64))


def test_batches_of_rows_give_the_same_law():
    problem, x = LinearGaussian(data_size=4, latent_size=2), rows()
    options = {"num_draws": 10, "num_samples": 2000, "refine": FEW, "seed": 0}
    whole = dv.condition(problem.model, problem.guide, x, **options)
    parts = dv.condition(problem.model, problem.guide, x, memory=2**20, **options)
    error = (whole.standard_error**2 + parts.standard_error**2).sqrt()
    assert bool(((whole.log_likelihood - parts.log_likelihood).abs() < 5 * error + 1e-9).all())
    assert not torch.equal(whole.log_likelihood, parts.log_likelihood)


def squared(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x**2)


def one_hot(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.OneHotCategorical(logits=z), obs=x)


def counts(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Multinomial(1, logits=z), obs=x)


def any_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 4, dtype=torch.float64), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (squared, rows(), "site 'x' observes a function of the data"),
        (
            counts,
            torch.tensor([[1.0, torch.nan, 0.0, 0.0]]),
            "cells of a row under Multinomial are neither independent",
        ),
        (one_hot, rows(), "expected values in the support of the likelihood"),
    ],
)
def test_models_without_conditionals_are_refused(model, x, message):
    with pytest.raises(InputError, match=message):
        dv.condition(model, any_guide, x.double(), num_samples=30, refine=False, seed=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", r"data: expected a tensor \[N, ...\], a numpy array"),
        (torch.zeros(0, 4), "data: expected at least one"),
        (torch.full((2, 4), math.inf), "data: expected finite values or NaN, got 8 infinite"),
    ],
)
def test_data_that_are_no_rows_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        dv.condition(one_hot, any_guide, data)


def test_gaps_of_arrays_and_frames():
    pandas = pytest.importorskip("pandas")
    expected = torch.tensor([[True, False], [True, True]])
    frame = pandas.DataFrame(
        {"a": pandas.array([1, 2], dtype="Int64"), "b": pandas.array([None, 3], dtype="Int64")}
    )
    masked = np.ma.masked_array([[1.0, 5.0], [2.0, 3.0]], mask=[[False, True], [False, False]])
    for data in (frame, masked, np.array([[1.0, np.nan], [2.0, 3.0]])):
        filled, seen = dv.fill_gaps(data, fill=9.0)
        assert torch.equal(seen, expected)
        assert filled.tolist() == [[1.0, 9.0], [2.0, 3.0]]


def test_gaps_of_other_sources_and_texts_are_refused(tmp_path):
    pandas = pytest.importorskip("pandas")
    x = torch.tensor([[math.nan, 1.0], [2.0, 3.0], [4.0, math.nan]])
    np.save(tmp_path / "x.npy", x.numpy())
    sources = [
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        torch.utils.data.TensorDataset(x),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=2),
        pandas.DataFrame(np.asfortranarray(x.numpy())),
    ]
    for source in sources:
        filled, seen = dv.fill_gaps(source, fill=9.0)
        assert torch.equal(seen, ~x.isnan())
        assert filled.tolist() == [[9.0, 1.0], [2.0, 3.0], [4.0, 9.0]]
        assert filled.is_contiguous()
    matrix = pytest.importorskip("scipy.sparse").csr_matrix(np.eye(2))
    assert dv.fill_gaps(matrix)[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(InputError, match="expected numeric columns, got others: 'a'"):
        dv.fill_gaps(pandas.DataFrame({"a": ["x"]}))
    with pytest.raises(InputError, match="infinite"):
        dv.fill_gaps(torch.utils.data.TensorDataset(torch.tensor([[math.inf]])))


def test_each_column_may_have_a_filling_of_its_own():
    x = torch.tensor([[math.nan, 1.0], [2.0, math.nan]])
    assert dv.fill_gaps(x, fill=torch.tensor([8.0, 9.0]))[0].tolist() == [[8.0, 1.0], [2.0, 9.0]]
    with pytest.raises(InputError, match="fill: expected a number or one for each cell of a row"):
        dv.fill_gaps(x, fill=torch.zeros(3))


def test_the_bound_of_rows_with_gaps_is_that_of_the_observed_cells():
    problem, x = LinearGaussian(data_size=4, latent_size=2), rows()
    filled, seen = dv.fill_gaps(x)
    model, guide = dv.with_gaps(problem.model, problem.guide)
    bound = dv.TraceDenoisingIWAE_ELBO(num_particles=20_000, max_plate_nesting=1)
    with torch.no_grad():
        problem.log_v.zero_()  # so wide that the bound is nearly tight
    torch.manual_seed(0)
    value = -bound.loss(model, guide, filled, seen) / len(x)
    expected = float(torch.stack([exact(problem, row)[2] for row in x]).mean())
    assert value == pytest.approx(expected, abs=0.05)


def test_a_model_trains_on_rows_with_gaps_and_the_mask_reaches_the_guide():
    seen_by_guide = []

    def guide(x, seen):
        seen_by_guide.append(seen)
        rate = pyro.param("rate", torch.tensor(0.1, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(rate * x[:, :2], 1.0).to_event(1))

    problem, x = LinearGaussian(data_size=4, latent_size=2), rows()
    filled, seen = dv.fill_gaps(x)
    model, guide = dv.with_gaps(problem.model, guide, pass_mask=True)
    before = problem.b.detach().clone()
    dv.fit(model, guide, filled, seen, loss=dv.TraceDenoising_ELBO(), epochs=2, batch_size=8, progress=False)
    assert not torch.equal(problem.b, before)
    assert bool(problem.b.isfinite().all())
    assert all(each.dtype == torch.bool for each in seen_by_guide)


def test_cells_are_filled_as_their_distribution_allows():
    nan = math.nan
    draws = torch.tensor([[0.0, 0.1, 5.0], [2.0, 0.2, 6.0], [2.0, 0.3, 7.0]])  # a category, a real, no mean
    found = dv.Completions(
        torch.tensor([[nan, nan, nan, 9.0]]), draws, torch.tensor([nan, 0.25, nan]), draws[0]
    )
    assert found.filled("mean").tolist() == [[2.0, 0.25, 6.0, 9.0]]
    assert found.filled("median").tolist() == [[2.0, draws[1, 1].item(), 6.0, 9.0]]
    assert found.quantile(torch.tensor(0.5)).shape == (1, 4)
    several = torch.cat([torch.arange(40.0)[:, None], torch.ones(40, 1)], 1)
    found = dv.Completions(torch.tensor([[nan, nan]]), several, several[0], several[0])
    with pytest.raises(
        InputError, match=r"^how: 1 missing cells have 40 different draws, so they have no mode"
    ):
        found.filled("mode")


def test_whole_numbers_become_the_type_of_the_model():
    problem, options = LinearGaussian(), {"refine": False, "num_samples": 25, "seed": 0, "progress": False}
    x = torch.arange(6).reshape(2, 3)
    found = dv.condition(problem.model, problem.plain_guide, x, **options)
    expected = dv.condition(problem.model, problem.plain_guide, x.double(), **options)
    assert torch.equal(found.log_likelihood, expected.log_likelihood)


@pytest.mark.parametrize("size", [1e12, 1e200])
def test_a_row_too_far_for_the_numbers_is_marked_and_the_others_are_imputed(size):
    problem = LinearGaussian(data_size=4, latent_size=2)
    x = rows()[:8]
    x[2] = torch.tensor([size, math.nan, 0.0, 0.0], dtype=x.dtype)
    options = {"refine": FEW, "num_draws": 4000, "seed": 0, "progress": False}
    found = dv.condition(problem.model, problem.guide, x, **options)
    assert found.reliable.tolist() == [row != 2 for row in range(8)]
    for row in (1, 3, 5):
        mean, spread, log_prob = exact(problem, x[row])
        error = (spread.diagonal() / float(found.ess[row])).sqrt()
        assert bool(((found.mean[row][x[row].isnan()] - mean).abs() < 5 * error).all())
        assert abs(float(found.log_likelihood[row] - log_prob)) < 5 * float(found.standard_error[row]) + 1e-9
    told = r"(missing cells|scores) of \d rows? \(of \d( with gaps)?\) are not reliable"
    for verb in (dv.impute, dv.sample_given, dv.anomaly_score):
        with pytest.warns(UserWarning, match=told):
            verb(problem.model, problem.guide, x, refine=False, seed=0, progress=False)


def test_a_model_without_a_density_in_any_row_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * math.nan, 1.0, validate_args=False).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.tensor([[0.0, math.nan], [1.0, 2.0]])
    with pytest.raises(InputError, match="expected log-densities, got NaN"):
        dv.condition(model, guide, x, refine=False, num_draws=2, num_samples=25, progress=False)
