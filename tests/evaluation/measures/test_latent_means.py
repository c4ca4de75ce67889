import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from measured_problems import (
    Hierarchy,
    InnerPlate,
    Mixed,
    binary,
    empty_guide,
    linear_gaussian,
    no_latents,
    normal,
)

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import latent_means


@pytest.mark.parametrize("chunk", [None, 1, 5, 12])
def test_a_gaussian_guide_gives_its_mean(chunk):
    problem, x = linear_gaussian()
    found = latent_means(problem.model, problem.guide, x, batch_size=chunk)
    assert list(found) == ["z"]
    torch.testing.assert_close(found["z"], (x @ problem.A.T + problem.c).detach())
    assert not found["z"].requires_grad


def test_a_corrupted_input_is_averaged_over():
    problem, x = linear_gaussian(1)
    runs = [latent_means(problem.model, problem.guide, x, clean=False, num_samples=20) for _ in range(200)]
    estimates = torch.stack([run["z"] for run in runs])
    check_estimates("E[z|x]", estimates, (x @ problem.A.T + problem.c).detach())
    assert float(estimates.std(0).min()) > 0


def test_the_mean_of_each_kind_of_latent():
    problem, x = Mixed(), binary()
    found = latent_means(problem.model, problem.guide, x, num_samples=3)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "switch": (40, 2),
        "level": (40,),
        "kind": (40, 4),
    }
    for name, mean in problem.means(x).items():  # exact, also where a discrete draw came before
        torch.testing.assert_close(found[name], mean, rtol=0, atol=1e-12)


def test_a_deeper_layer_is_averaged_over_the_draws_above():
    problem, x = Hierarchy(), normal(3, 3)
    runs = [latent_means(problem.model, problem.guide, x, num_samples=10) for _ in range(200)]
    exact = x @ problem.A.T @ problem.B.T
    check_estimates("E[z2|x]", torch.stack([run["z2"] for run in runs]), exact)
    assert all(torch.equal(run["z1"], x @ problem.A.T) for run in runs)


def test_inner_plates_follow_the_data():
    problem, x = InnerPlate(), normal(6, 3)
    found = latent_means(problem.model, problem.guide, x, batch_size=4, num_samples=2)
    torch.testing.assert_close(found["whole"], x.mean(-1))
    torch.testing.assert_close(found["z"], torch.stack([x, -x], -1))


def test_values_are_averaged_if_a_mean_is_unknown():
    flow = dist.transforms.AffineTransform(2.0, 3.0)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(x, 1.0), [flow]))

    x = normal(2)
    runs = torch.stack([latent_means(model, guide, x, num_samples=10)["z"] for _ in range(300)])
    check_estimates("E[z|x]", runs, 2 + 3 * x)


def test_each_seed_has_its_own_stream():
    problem, x = Hierarchy(), normal(5, 3)

    def run(seed):
        return latent_means(problem.model, problem.guide, x, num_samples=3, seed=seed)["z2"]

    before = torch.get_rng_state()
    first = run(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(run(3), first)
    assert not torch.equal(run(4), first)
    pyro.set_rng_seed(3)
    assert torch.equal(run(None), first)
    assert not torch.equal(run(None), first)


@pytest.mark.parametrize("module_local", [False, True])
def test_nothing_is_left_behind(module_local):
    problem, x = linear_gaussian()
    with pyro.settings.context(module_local_params=module_local):
        store = pyro.get_param_store()
        pyro.param("kept", torch.ones(2))
        settings, kept = pyro.settings.get(), store["kept"].clone()
        values = [p.detach().clone() for p in problem.parameters()]
        latent_means(problem.model, problem.guide, x)
        assert list(store.keys()) == ["kept"]
        assert torch.equal(store["kept"], kept)
        assert pyro.settings.get() == settings
    for parameter, value in zip(problem.parameters(), values, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.requires_grad
        assert parameter.grad is None


def test_parameters_of_the_store_are_used_and_stay():
    problem, x = linear_gaussian()
    problem.model(x)
    problem.guide(x)
    names = set(pyro.get_param_store().keys())
    latent_means(problem.model, problem.guide, x)
    assert set(pyro.get_param_store().keys()) == names


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([0.0], {}, "data: expected a tensor .*, got list"),
        (torch.tensor(1.0), {}, "data: expected data of shape"),
        (torch.zeros(0, 3), {}, "data: expected at least one element"),
        (torch.full((2, 3), math.nan), {}, "data: expected finite values"),
        (torch.zeros(2, 3), {"batch_size": 0}, "batch_size: "),
        (torch.zeros(2, 3), {"num_samples": 0}, "num_samples: "),
        (torch.zeros(2, 3), {"seed": -1}, "seed: "),
    ],
)
def test_bad_input(x, options, message):
    problem, _ = linear_gaussian()
    with pytest.raises(InputError, match=f"^{message}"):
        latent_means(problem.model, problem.guide, x, **options)


def test_a_model_without_latents():
    with pytest.raises(InputError, match=r"^model: expected at least one latent, got none"):
        latent_means(no_latents, empty_guide, normal(2, 3))


def test_a_plate_of_another_size():
    def model(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.reshape(-1))

    def guide(x):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="with the 2 rows of a batch around all sites, got 'data' of 4"):
        latent_means(model, guide, normal(2, 2))


def test_a_guide_that_does_not_match_the_model():
    problem, x = linear_gaussian()
    missing = pytest.warns(UserWarning, match="Found vars in model but not guide")
    with pytest.raises(InputError, match="latent 'z' is not sampled in the guide"), missing:
        latent_means(problem.model, empty_guide, x)


def test_a_latent_without_a_mean():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Cauchy(0.0, 1.0))

    with pytest.raises(
        InputError, match=r"^guide: expected finite means of 'z', got NaN or infinity from Cauchy"
    ):
        latent_means(model, model, normal(2))
