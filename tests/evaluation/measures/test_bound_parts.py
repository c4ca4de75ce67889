import json
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
from pyro import poutine

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import bound_parts

BOUNDS = {True: dv.TraceMeanFieldDenoising_ELBO, False: dv.TraceDenoising_ELBO}


def assert_adds_up(model, guide, x, closed_form, m=1, k=1, clean=True, chunk=None, **options):
    parts = bound_parts(
        model,
        guide,
        x,
        num_corruptions=m,
        num_particles=k,
        closed_form=closed_form,
        clean=clean,
        batch_size=chunk,
        seed=3,
        **options,
    )
    bound = BOUNDS[closed_form](num_corruptions=m, num_particles=k)
    expected = dv.evaluate_bound(model, guide, x, loss=bound, clean=clean, batch_size=chunk, seed=3)
    torch.testing.assert_close(parts.bound.per_datum, expected.per_datum, rtol=1e-12, atol=1e-12)
    for name, dimensions in parts.kl_per_dimension.items():
        if dimensions is not None:
            assert float(dimensions.sum()) == pytest.approx(parts.kl[name].mean, abs=1e-12)
    return parts


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 4), (3, 1), (3, 2)])
@pytest.mark.parametrize("clean", [True, False])
def test_the_parts_add_up_to_the_bound(closed_form, m, k, clean):
    problem, x = linear_gaussian()
    parts = assert_adds_up(problem.model, problem.guide, x, closed_form, m, k, clean, chunk=5)
    assert parts.closed_form == (("z",) if closed_form else ())


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_discrete_latents_add_up(closed_form, k):
    problem, x = Mixed(), binary()
    parts = assert_adds_up(problem.model, problem.guide, x, closed_form, k=k)
    assert {name: tuple(value.shape) for name, value in parts.kl_per_dimension.items()} == {
        "switch": (2,),
        "level": (),
        "kind": (),
    }


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_inner_plates_add_up(closed_form, k):
    problem, x = InnerPlate(), normal(6, 3)
    parts = assert_adds_up(problem.model, problem.guide, x, closed_form, k=k)
    assert parts.kl_per_dimension["z"].shape == (3, 2)


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_the_kl_of_a_gaussian_in_closed_form(chunk):
    problem, x = linear_gaussian()
    parts = bound_parts(problem.model, problem.guide, x, batch_size=chunk)
    with torch.no_grad():
        mean, variance = x @ problem.A.T + problem.c, problem.log_v.exp()
        kl = (mean.square() + variance - problem.log_v - 1) / 2
    torch.testing.assert_close(parts.kl["z"].per_datum, kl.sum(1))
    torch.testing.assert_close(parts.kl_per_dimension["z"], kl.mean(0))
    torch.testing.assert_close(parts.total_kl.per_datum, kl.sum(1))


def test_the_reconstruction_of_a_linear_gaussian():
    problem, x = linear_gaussian(1)
    parts = bound_parts(problem.model, problem.guide, x.expand(4000, -1), closed_form=False)
    with torch.no_grad():
        mean, s2 = x @ problem.A.T + problem.c, (2 * problem.log_s).exp()
        error = (x - problem.b - mean @ problem.W.T).square().sum()
        error = error + (problem.W.square() @ problem.log_v.exp()).sum()
        exact = -1.5 * torch.log(2 * math.pi * s2) - error / (2 * s2)
        kl = (mean.square() + problem.log_v.exp() - problem.log_v - 1).sum() / 2
    check_estimates("reconstruction", parts.reconstruction.per_datum, exact)
    check_estimates("sampled KL", parts.kl["z"].per_datum, kl)


def test_a_prior_on_a_later_draw_is_sampled():
    problem, x = Hierarchy(), normal(1, 3).expand(4000, -1)
    parts = bound_parts(problem.model, problem.guide, x, closed_form=True, seed=1)
    # z2 is drawn from z1 in the guide, so KL(q(z1|x) ‖ p(z1|z2)) at a drawn z2 is no part of the bound.
    assert parts.closed_form == ("z2",)
    expected = dv.evaluate_bound(problem.model, problem.guide, x, loss=dv.TraceDenoising_ELBO(), seed=1)
    difference = parts.bound.per_datum - expected.per_datum
    check_estimates("bound", difference, torch.zeros((), dtype=torch.float64))


def test_a_later_layer_in_the_order_of_the_model_is_integrated():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Normal(a + x, 1.0))

    x = normal(9)
    parts = assert_adds_up(model, guide, x, True)
    assert parts.closed_form == ("a", "b")
    torch.testing.assert_close(parts.kl["b"].per_datum, x.square() / 2)  # of N(a + x, 1) to N(a, 1)


def test_a_hierarchy_whose_guide_is_mean_field_is_integrated():
    """In another order than the model's, but not drawn from one another."""

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            a = pyro.sample("a", dist.Normal(b, 1.0))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Normal(2 * x, 1.0))

    parts = assert_adds_up(model, guide, normal(9), True, k=3, chunk=5)
    assert parts.closed_form == ("a", "b")


def test_what_does_not_factorise_is_given_by_site():
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), torch.eye(2).double()))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.stack([x, -x], -1), covariance))

    x = normal(9)
    parts = assert_adds_up(model, guide, x, True)
    assert parts.kl_per_dimension == {"z": None}
    exact = x.square() + (1.5 - 2 - torch.logdet(covariance)) / 2
    torch.testing.assert_close(parts.kl["z"].per_datum, exact)
    assert assert_adds_up(model, guide, x, False).closed_form == ()


def test_a_kl_that_is_not_known_is_sampled_by_dimension():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, torch.stack([x, -x], -1), 1.0).to_event(1))

    parts = assert_adds_up(model, guide, normal(9), True)
    assert parts.closed_form == ()
    assert parts.kl_per_dimension["z"].shape == (2,)


@pytest.mark.parametrize("closed_form", [True, False])
def test_scales_and_masks_equal_those_of_the_bound(closed_form):
    x, mask = normal(6, 3), torch.tensor([True, False, True, True, False, True])

    def model(x):
        with pyro.plate("data", 60, subsample_size=len(x)), poutine.scale(scale=0.5):
            with poutine.scale(scale=0.2):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=mask):
                pyro.sample(
                    "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 3]).to_event(1), obs=x
                )

    def guide(x):
        with pyro.plate("data", 60, subsample_size=len(x)), poutine.scale(scale=0.5 * 0.2):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    parts = assert_adds_up(model, guide, x, closed_form)
    assert bool((parts.reconstruction.per_datum[~mask] == 0).all())
    if closed_form:
        torch.testing.assert_close(parts.kl["z"].per_datum, 0.1 * x[:, :2].square().sum(1) / 2)


def test_nothing_of_the_caller_changes():
    problem, x = linear_gaussian()
    before = torch.get_rng_state()
    one, two, other = (bound_parts(problem.model, problem.guide, x, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.reconstruction.per_datum, two.reconstruction.per_datum)
    assert not torch.equal(one.reconstruction.per_datum, other.reconstruction.per_datum)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(pyro.get_param_store().keys())
    assert all(p.grad is None for p in problem.parameters())


def test_table_and_dictionary():
    problem, x = Mixed(category=False), binary(5)
    parts = bound_parts(problem.model, problem.guide, x)
    lines = str(parts).splitlines()
    assert lines[0] == "parts of the bound of 5 rows, nats per observation"
    assert [line.split("  ")[0] for line in lines[1:]] == ["bound", "reconstruction", "KL switch", "KL level"]
    assert lines[3].endswith("closed form, 2 dimensions")
    found = json.loads(json.dumps(parts.to_dict(per_datum=True), allow_nan=False))
    assert found["bound"]["mean"] == pytest.approx(
        found["reconstruction"]["mean"] - sum(part["mean"] for part in found["kl"].values())
    )
    assert len(found["kl"]["level"]["per_datum"]) == 5
    single = bound_parts(problem.model, problem.guide, x[:1])
    assert "n/a" in single.table()
    assert single.to_dict()["bound"]["standard_error"] is None


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(0, 3), {}, "data: expected at least one element"),
        (torch.full((2, 3), math.inf), {}, "data: expected finite values"),
        (torch.zeros(2, 3), {"num_particles": 0}, "num_particles: "),
        (torch.zeros(2, 3), {"num_corruptions": 0}, "num_corruptions: "),
        (torch.zeros(2, 3), {"batch_size": 0}, "batch_size: "),
    ],
)
def test_bad_input_of_bound_parts(x, options, message):
    problem, _ = linear_gaussian()
    with pytest.raises(InputError, match=f"^{message}"):
        bound_parts(problem.model, problem.guide, x, **options)


def test_a_model_without_latents_or_observations():
    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match=r"^model: expected at least one latent"):
        bound_parts(no_latents, empty_guide, normal(2, 3))
    with pytest.raises(InputError, match=r"^model: expected at least one observed site"):
        bound_parts(prior, prior, normal(2, 3))
