import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, LinearGaussian, check_estimates, gradients
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

import pyro_dvae as dv
from pyro_dvae.sites import Auxiliary

CORRUPTIONS = [
    dv.NoCorruption(),
    dv.BitFlip(0.4),
    dv.Masking(0.4),
    dv.SaltAndPepper(0.4),
    dv.GaussianNoise(0.4),
]


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def bits(*shape, seed=5):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).double()


def site_of(statement, *args, name="x_tilde"):
    trace = poutine.trace(statement).get_trace(*args)
    trace.compute_log_prob()
    trace.compute_score_parts()
    return trace.nodes[name]


def random_state_after(statement):
    pyro.set_rng_seed(3)
    statement()
    return torch.get_rng_state()


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(("shape", "event_dim"), [((4,), 0), ((4, 3), 1), ((4, 5, 3), 2)])
def test_the_site_in_a_plate(corruption, shape, event_dim):
    x = torch.rand(shape, dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            return dv.corrupt("x_tilde", corruption, x, event_dim)

    site = site_of(guide, x)
    assert site["infer"]["is_auxiliary"] is True
    assert not site["is_observed"]
    assert (site["fn"].batch_shape, site["fn"].event_shape) == ((4,), shape[1:])
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
    assert site["value"].shape == x.shape
    assert site["value"].dtype == torch.float64
    assert torch.equal(site["value"], x) == isinstance(corruption, dv.NoCorruption)
    assert torch.equal(site["log_prob"], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(site["fn"].log_prob(torch.rand(6, *shape)), torch.zeros(6, 4))


def test_two_plates():
    x = torch.rand(2, 4, 3)

    def guide(x):
        with pyro.plate("groups", 2, dim=-2), pyro.plate("data", 4, dim=-1):
            return dv.corrupt("x_tilde", dv.BitFlip(0.3), x)

    site = site_of(guide, x)
    assert site["fn"].batch_shape == (2, 4)
    assert {(frame.name, frame.dim) for frame in site["cond_indep_stack"]} == {("groups", -2), ("data", -1)}


def test_the_whole_datum_without_a_plate():
    site = site_of(lambda: dv.corrupt("x_tilde", dv.BitFlip(0.3), torch.rand(4, 3), 2))
    assert site["fn"].event_shape == (4, 3)
    assert site["log_prob"].shape == ()


def test_a_plate_broadcasts_one_datum_into_independent_corruptions():
    def guide():
        with pyro.plate("draws", 100):
            return dv.corrupt("x_tilde", dv.GaussianNoise(1.0), torch.zeros(3))

    value = guide()
    assert value.shape == (100, 3)
    assert len(value.unique()) == 300


def test_scale_and_mask_leave_the_site_at_zero():
    x = torch.rand(4, 3)

    def guide():
        with pyro.plate("data", 4):
            return dv.corrupt("x_tilde", dv.GaussianNoise(0.3), x)

    mask = torch.tensor([True, False, True, False])
    site = site_of(poutine.mask(poutine.scale(guide, 7.0), mask))
    assert torch.equal(site["log_prob"], torch.zeros(4))


@pytest.mark.parametrize("kind", [dv.BitFlip, dv.Masking, dv.SaltAndPepper])
def test_score_parts_of_a_learned_discrete_corruption(kind):
    corruption = kind(double([0.2, 0.3, 0.4]), learnable=True)
    x = bits(6, 3)
    site = site_of(lambda: dv.corrupt("x_tilde", corruption, x, 2))
    log_prob, score, entropy = site["score_parts"]
    assert torch.equal(log_prob, double(0.0))
    torch.testing.assert_close(score, corruption(x).log_prob(site["value"]).sum(), rtol=1e-12, atol=0)
    assert score.requires_grad
    assert entropy == 0
    with pytest.raises(NotImplementedError, match=r"TraceDenoising_ELBO"):
        entropy.sum()


@pytest.mark.parametrize(
    "corruption",
    [dv.BitFlip(0.3), dv.GaussianNoise(0.3), dv.GaussianNoise(0.3, learnable=True), dv.NoCorruption()],
)
def test_score_parts_elsewhere_are_nothing(corruption):
    site = site_of(lambda: dv.corrupt("x_tilde", corruption, torch.rand(4, 3), 2))
    assert site["fn"].has_rsample
    assert torch.equal(site["score_parts"].log_prob, torch.zeros(()))
    assert site["score_parts"].score_function == 0
    assert torch.equal(site["score_parts"].entropy_term, torch.zeros(()))


def test_the_score_function_of_data_that_require_a_gradient_is_kept():
    """The probabilities of a user's corruption may depend on x, so x is not assumed pathwise."""

    class Resample(dv.Corruption):
        def distribution(self, x):
            return dist.Bernoulli(x)

    x = torch.full((4, 3), 0.3, requires_grad=True)
    site = site_of(lambda: dv.corrupt("x_tilde", Resample(), x, 2))
    assert not site["fn"].has_rsample
    (gradient,) = torch.autograd.grad(site["score_parts"].score_function, x)
    expected = torch.where(site["value"] == 1, 1 / 0.3, -1 / 0.7)
    torch.testing.assert_close(gradient, expected)


def test_expanding_keeps_everything():
    clean = torch.rand(1, 3)
    base = dv.GaussianNoise(0.2, learnable=True)(clean).to_event(1)
    wide = Auxiliary(base, clean).expand([5, 4])
    assert (wide.batch_shape, wide.event_shape, wide.learned) == ((5, 4), (3,), True)
    assert wide.support.event_dim == 1
    assert bool(wide.support.check(wide.sample()).all())
    assert len(wide.sample().unique()) == 60
    assert len(wide.rsample((2,)).unique()) == 120
    assert torch.equal(wide.without_noise().sample(), clean.expand(5, 4, 3))


def test_values_follow_the_corruptions_own_distribution():
    x = torch.rand(4, 3, dtype=torch.float64)
    noise = dv.GaussianNoise(0.4)
    pyro.set_rng_seed(3)
    through_site = dv.corrupt("x_tilde", noise, x)
    pyro.set_rng_seed(3)
    assert torch.equal(through_site, noise(x).rsample())


def test_gradients_flow_to_the_data_and_the_scale():
    noise = dv.GaussianNoise(0.4, learnable=True)
    x = torch.rand(4, 3, requires_grad=True)
    dv.corrupt("x_tilde", noise, x).sum().backward()
    assert torch.equal(x.grad, torch.ones(4, 3))
    assert float(noise.scale.raw.grad) != 0


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(parallel):
    problem = LinearGaussian()
    x = torch.rand(4, 3, dtype=torch.float64)
    sites = ["x_tilde", "z"]
    posterior = Predictive(problem.guide, num_samples=600, return_sites=sites, parallel=parallel)(x)
    assert posterior["x_tilde"].shape == (600, 4, 3)
    check_estimates("x_tilde", posterior["x_tilde"], x)
    through = Predictive(problem.model, guide=problem.guide, num_samples=5, parallel=parallel)(x)
    assert through["z"].shape == (5, 4, 2)


@pytest.mark.parametrize("local", [False, True])
def test_stock_svi_learns_a_corruption_used_by_hand(local):
    corruption = dv.BitFlip(double(0.2), learnable=True)
    weight = double([2.0, -1.0, 0.5])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(double(0.0), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1) * weight).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("noisy", corruption, x)
            pyro.sample("z", dist.Normal(x_tilde @ weight - 0.7, 0.8))

    x = bits(200, 3)
    with pyro.settings.context(module_local_params=local):
        trace = poutine.trace(guide, param_only=True).get_trace(x)
        assert list(trace.param_nodes) == ["noisy$$$rate.raw"]
        assert list(pyro.get_param_store()) == ([] if local else ["noisy$$$rate.raw"])
        for elbo in (Trace_ELBO(), dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=1)):
            before = float(corruption.rate().detach())
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
            for _ in range(20):
                svi.step(x)
            # The denoising bound is linear in the corruption: it is driven down (the encoder reads x well).
            assert float(corruption.rate().detach()) < 0.9 * before


@pytest.mark.parametrize("bad", [lambda x: x, dist.Normal(0.0, 1.0), None, torch.nn.Identity(), dv.BitFlip])
def test_what_is_no_corruption_is_refused(bad):
    with pytest.raises(
        dv.InputError, match=f"^corruption: expected a pyro_dvae corruption, got {type(bad).__name__}$"
    ):
        dv.corrupt("x_tilde", bad, torch.rand(4, 3))


def test_bad_data_and_event_dim_are_refused():
    noise = dv.BitFlip(0.1)
    with pytest.raises(dv.InputError, match=r"^x: expected at least event_dim = 3 dimensions, got shape"):
        dv.corrupt("x_tilde", noise, torch.rand(4, 3), 3)
    with pytest.raises(dv.InputError, match=r"^x: expected a tensor, got list$"):
        dv.corrupt("x_tilde", noise, [0.0, 1.0])
    with pytest.raises(dv.InputError, match=r"^x: expected floating-point values, got torch.int64"):
        dv.corrupt("x_tilde", noise, torch.ones(4, 3, dtype=torch.int64))
    with pytest.raises(dv.InputError, match=r"^x: expected finite values, got 1 NaN or infinite of 2$"):
        dv.corrupt("x_tilde", noise, torch.tensor([0.0, math.nan]))
    for event_dim in (-1, 1.0, True, None):
        with pytest.raises(dv.InputError, match=r"^event_dim: expected a whole number of at least 0, got"):
            dv.corrupt("x_tilde", noise, torch.rand(4, 3), event_dim)


def test_nan_data_pass_without_validation():
    pyro.enable_validation(False)
    assert dv.corrupt("x_tilde", dv.Masking(0.0), torch.tensor([0.0, math.nan]))[1].isnan()


# Clean input


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(("shape", "event_dim"), [((4,), 0), ((4, 3), 1), ((4, 5, 3), 2)])
def test_clean_input_returns_the_data_and_draws_nothing(corruption, shape, event_dim):
    x = torch.rand(shape)

    def guide():
        with pyro.plate("data", 4):
            return dv.corrupt("x_tilde", corruption, x, event_dim)

    with dv.clean_input():
        inside = guide()
    assert torch.equal(inside, x)
    assert torch.equal(dv.clean_input(guide)(), x)
    untouched = random_state_after(lambda: None)
    assert torch.equal(random_state_after(dv.clean_input(guide)), untouched)
    if not isinstance(corruption, dv.NoCorruption):
        assert not torch.equal(guide(), x)
        assert not torch.equal(random_state_after(guide), untouched)


def test_clean_input_counts_nothing_either():
    site = site_of(
        dv.clean_input(lambda: dv.corrupt("x_tilde", dv.BitFlip(0.3, learnable=True), torch.rand(4, 3), 2))
    )
    assert site["infer"]["is_auxiliary"] is True
    assert torch.equal(site["log_prob"], torch.zeros(()))
    assert site["score_parts"].score_function == 0


def test_clean_input_leaves_other_sites_and_given_values_alone():
    given = torch.full((4, 3), 0.25)

    def guide():
        pyro.sample("y", dist.Normal(0.0, 1.0))
        return dv.corrupt("x_tilde", dv.BitFlip(0.3), torch.rand(4, 3), 2)

    trace = poutine.trace(dv.clean_input(guide)).get_trace()
    assert isinstance(trace.nodes["y"]["fn"], dist.Normal)
    assert torch.equal(dv.clean_input(poutine.condition(guide, {"x_tilde": given}))(), given)


KINDS = [
    dv.GaussianNoise(double(0.4), learnable=True),
    dv.BitFlip(double(0.3), learnable=True),
    dv.SaltAndPepper(0.3),
]


@pytest.mark.parametrize(
    "bound",
    [
        Trace_ELBO(),
        dv.TraceDenoising_ELBO(),
        dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=2, max_plate_nesting=1),
    ],
)
@pytest.mark.parametrize("corruption", KINDS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("form", ["outside", "wrapper"])
def test_clean_input_under_a_bound_equals_no_corruption(bound, corruption, form):
    problem, plain = BinaryProblem(corruption), BinaryProblem(dv.NoCorruption())
    x = bits(5, 3)
    seen = []
    encode = problem.encode
    problem.encode = lambda x_tilde: (seen.append(x_tilde), encode(x_tilde))[1]
    pyro.set_rng_seed(3)
    if form == "outside":
        with dv.clean_input():
            value = bound.loss_and_grads(problem.model, problem.guide, x)
    else:
        value = bound.loss_and_grads(problem.model, dv.clean_input(problem.guide), x)
    assert seen
    assert all(torch.equal(x_tilde, x.expand_as(x_tilde)) for x_tilde in seen)
    if isinstance(bound, dv.TraceDenoising_ELBO) and bound.num_corruptions > 1:
        assert seen[-1].shape == (3, 5, 3)
    grads = gradients(problem)
    # The problems share parameter names, not parameters; only the local setting lets both live.
    with pyro.settings.context(module_local_params=True):
        pyro.set_rng_seed(3)
        expected = bound.loss_and_grads(plain.model, plain.guide, x)
    assert value == expected
    for name, gradient in gradients(plain).items():
        assert torch.equal(grads[name], gradient), name
        assert bool((gradient != 0).any()), name
    assert all(not gradient.any() for name, gradient in grads.items() if name.startswith("corruption"))


def test_clean_input_ends_with_its_block():
    x = torch.rand(4, 3)
    with dv.clean_input():
        pass
    assert not torch.equal(dv.corrupt("x_tilde", dv.GaussianNoise(0.3), x), x)


def test_rows_of_a_single_number_are_no_single_row():
    """With event_dim = 1, four numbers in a plate of four would be corrupted as a whole, four times."""
    x = torch.rand(4, dtype=torch.float64)

    def guide(event_dim):
        with pyro.plate("data", 4):
            return dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x, event_dim)

    assert guide(0).shape == (4,)
    with pytest.raises(dv.InputError, match=r"plate 'data' has 4 elements; .* event_dim=0"):
        guide(1)

    def repeated():
        with pyro.plate("repeats", 3):
            return dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x)

    assert repeated().shape == (3, 4)
