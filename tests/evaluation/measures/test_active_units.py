import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from measured_problems import Hierarchy, InnerPlate, Mixed, binary, linear_gaussian, normal

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import active_units
from pyro_dvae.evaluation.measures.passes import Moments


def covariance(means):
    return torch.cov(means.T).diagonal()


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_the_activity_of_a_linear_guide_follows_from_the_data(chunk):
    problem, x = linear_gaussian(30)
    found = active_units(problem.model, problem.guide, x, batch_size=chunk)
    exact = (problem.A @ torch.cov(x.T) @ problem.A.T).diagonal().detach()
    torch.testing.assert_close(found.activity["z"], exact)
    assert (found.count, found.total, found.num_data, found.estimated) == (2, 2, 30, ())


def test_a_dead_unit_is_not_counted():
    problem, x = linear_gaussian(30)
    with torch.no_grad():
        problem.A[0] = 0.0
    found = active_units(problem.model, problem.guide, x)
    assert float(found.activity["z"][0]) < 1e-30
    assert (found.count, found.total, found.counts) == (1, 2, {"z": 1})
    assert str(found) == "1 of 2 units active (above 0.01): z 1 of 2"


def test_the_threshold_is_exclusive_and_can_be_chosen():
    problem, x = linear_gaussian(30)
    level = float(active_units(problem.model, problem.guide, x).activity["z"].max())
    assert active_units(problem.model, problem.guide, x, threshold=level).count == 0
    assert active_units(problem.model, problem.guide, x, threshold=level * 0.999).count == 1


def test_the_error_of_sampled_means_is_taken_off():
    problem, x = Hierarchy(), normal(20, 3)
    exact = covariance(x @ problem.A.T @ problem.B.T)
    runs = []
    for _ in range(150):
        found = active_units(problem.model, problem.guide, x, num_samples=2)
        runs.append(found.activity["z2"])
        torch.testing.assert_close(found.activity["z1"], covariance(x @ problem.A.T))
    assert found.estimated == ("z2",)
    check_estimates("activity", torch.stack(runs), exact)
    bias = problem.s1**2 * (problem.B @ problem.B.T).diagonal() / 2
    spread = torch.stack(runs).std(0) / 150**0.5
    assert bool((bias > 10 * spread).all())  # else the check above would not have seen it


def test_a_deep_unit_that_ignores_the_data_is_dead():
    problem, x = Hierarchy(), normal(400, 3)
    problem.A[:] = 0.0  # z2 still depends on the draw of z1
    found = active_units(problem.model, problem.guide, x, num_samples=50, threshold=0.01)
    assert found.counts == {"z1": 0, "z2": 0}


def test_discrete_latents_count_by_their_probabilities():
    problem, x = Mixed(), binary()
    found = active_units(problem.model, problem.guide, x, num_samples=2)
    for name, mean in problem.means(x).items():
        torch.testing.assert_close(found.activity[name], mean.var(0), rtol=1e-9, atol=1e-12)
    assert found.total == 2 + 1 + 4
    json.dumps(found.to_dict(), allow_nan=False)


def test_units_of_an_inner_plate():
    problem, x = InnerPlate(), normal(6, 3)
    found = active_units(problem.model, problem.guide, x, num_samples=2)
    torch.testing.assert_close(found.activity["z"], torch.stack([x, -x], -1).var(0))
    assert found.total == 7


def test_same_seed_same_result():
    problem, x = Hierarchy(), normal(6, 3)
    before = torch.get_rng_state()
    one, two, other = (
        active_units(problem.model, problem.guide, x, num_samples=3, seed=seed).activity["z2"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_small_variance_on_a_large_mean():
    x = torch.linspace(0, 1, 50, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1e6 + x, 1.0))

    found = active_units(model, guide, x, batch_size=7)
    torch.testing.assert_close(found.activity["z"], x.var(), rtol=1e-7, atol=0)


def test_merged_moments_equal_those_of_the_whole():
    values = normal(23, 2, 3) + 100
    moments = Moments()
    for block in values.split(5):
        moments.add(block)
    torch.testing.assert_close(moments.mean, values.mean(0))
    torch.testing.assert_close(moments.variance, values.var(0))
    single = Moments()
    single.add(values[:1])
    assert bool(torch.isnan(single.variance).all())


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(1, 3), {}, "data: expected at least 2 rows"),
        (torch.zeros(0, 3), {}, "data: expected at least one element"),
        (torch.zeros(2, 3), {"threshold": -1.0}, "threshold: "),
        (torch.zeros(2, 3), {"num_samples": 1}, "num_samples: expected a whole number of at least 2"),
    ],
)
def test_bad_input_of_active_units(x, options, message):
    problem, _ = linear_gaussian()
    with pytest.raises(InputError, match=f"^{message}"):
        active_units(problem.model, problem.guide, x, **options)
