import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, Enumerated, LinearGaussian, check_estimates

import pyro_dvae as dv
from pyro_dvae.errors import InputError


def data(count, seed=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_pair():
    """A model with its exact posterior as guide: every bound is log p(x), whatever is drawn."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    return model, guide


@pytest.mark.parametrize("clean", [True, False])
def test_the_bound_belongs_to_the_guides_input(clean):
    problem, x = LinearGaussian(sigma=1.0), data(1).expand(4000, -1)
    corrupted = problem.l_dvae(x[:1]).detach()
    with torch.no_grad():
        plain = LinearGaussian(sigma=0.0, learn_sigma=False).l_dvae(x[:1])
    assert abs(float(plain - corrupted)) > 0.5
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    estimate = dv.evaluate_bound(problem.model, problem.guide, x, loss=bound, clean=clean, seed=1)
    check_estimates("L_dvae", estimate.per_datum, (plain if clean else corrupted)[0])


def test_an_enumerated_bound():
    problem = BinaryProblem(dv.BitFlip(0.3), data_size=2)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        exact = Enumerated(problem, x).iwae("average", 1, 2)
    bound = dv.TraceDenoisingIWAE_ELBO(num_particles=2)
    found = dv.evaluate_bound(
        problem.model, problem.guide, x.repeat(3000, 1), loss=bound, clean=False, seed=2
    )
    check_estimates("L_diwae", found.per_datum.reshape(3000, 2), exact)


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 100])
def test_rows_keep_their_order_in_chunks_of_any_size(chunk):
    model, guide = exact_pair()
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3)
    estimate = dv.evaluate_bound(model, guide, x, loss=bound, batch_size=chunk)
    torch.testing.assert_close(estimate.per_datum, dist.Normal(0.0, math.sqrt(2)).log_prob(x))


def test_chunks_are_smaller_with_more_draws():
    model, guide = exact_pair()
    seen = []
    bound = dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=100)
    dv.evaluate_bound(model, guide, torch.zeros(12), loss=bound, progress=lambda *rows: seen.append(rows))
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_each_seed_has_its_own_stream():
    problem, x = LinearGaussian(), data(5)
    bound = dv.TraceDenoising_ELBO()

    def evaluate(seed):
        return dv.evaluate_bound(
            problem.model, problem.guide, x, loss=bound, clean=False, seed=seed
        ).per_datum

    before = torch.get_rng_state()
    first = evaluate(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(evaluate(3), first)
    assert not torch.equal(evaluate(4), first)
    pyro.set_rng_seed(3)
    assert torch.equal(evaluate(None), first)
    assert not torch.equal(evaluate(None), first)


def test_nothing_is_differentiated():
    problem, x = LinearGaussian(), data(5)
    estimate = dv.evaluate_bound(problem.model, problem.guide, x, loss=dv.TraceDenoising_ELBO())
    assert not estimate.per_datum.requires_grad
    assert all(p.grad is None for p in problem.parameters())


def test_mean_and_standard_error():
    estimate = dv.Estimate(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert estimate.mean == 3.0
    assert estimate.standard_error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert math.isnan(dv.Estimate(torch.tensor([1.0])).standard_error)


@pytest.mark.parametrize(
    ("x", "options", "name"),
    [
        (torch.zeros(0), {}, "data"),
        (torch.tensor([0.0, math.nan]), {}, "data"),
        (torch.tensor([0.0, math.inf]), {}, "data"),
        (torch.zeros(3), {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_input(x, options, name):
    model, guide = exact_pair()
    with pytest.raises(InputError, match=f"^{name}: "):
        dv.evaluate_bound(model, guide, x, loss=dv.TraceDenoising_ELBO(), **options)


def test_a_model_without_a_plate_of_the_data():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match=r"^model: expected one plate with the 3 rows"):
        dv.evaluate_bound(model, guide, torch.zeros(3), loss=dv.TraceDenoising_ELBO())
