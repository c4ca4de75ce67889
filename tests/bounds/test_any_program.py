"""Ordinary Pyro programs that users write: each gives its exact value, or an error that names a remedy."""

import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, check_estimates
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_dvae as dv

LOOPED = {"vectorize_particles": False}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


def tensor(*values):
    return torch.tensor(values if len(values) > 1 else values[0])


# Sites whose density counts


def one_observation():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 0.5), obs=tensor(0.7))


@pytest.mark.parametrize(
    ("bound", "exact"),
    [
        (dv.TraceDenoising_ELBO(num_particles=5), False),
        (dv.TraceMeanFieldDenoising_ELBO(num_particles=5), False),
        (dv.TraceSemiImplicit_ELBO(num_particles=5, num_mixture=2), False),
        (dv.TraceDenoising_ELBO(gradient="stl"), True),
        (dv.TraceDenoisingIWAE_ELBO(num_particles=5, gradient="dreg"), True),
    ],
)
def test_an_autoguide_finds_the_posterior(bound, exact):
    guide = AutoNormal(one_observation)
    svi = SVI(one_observation, guide, pyro.optim.Adam({"lr": 0.06}), bound)
    for _ in range(300):
        svi.step()
    low, high = guide.quantiles([0.15866, 0.84134])["z"]
    assert float(high - low) / 2 == pytest.approx(0.2**0.5, abs=1e-3 if exact else 0.08)


def test_a_factor_in_a_guide_counts_as_in_pyro():
    def guide():
        pyro.sample("z", dist.Normal(0.2, 0.4))
        pyro.factor("f", tensor(1.5), has_rsample=True)

    for bound in (Trace_ELBO(), dv.TraceDenoising_ELBO(), dv.TraceDenoisingIWAE_ELBO()):
        pyro.set_rng_seed(1)
        assert bound.loss(one_observation, guide) == pytest.approx(1.5 + plain_loss(), rel=1e-12)


def plain_loss():
    pyro.set_rng_seed(1)
    return Trace_ELBO().loss(one_observation, lambda: pyro.sample("z", dist.Normal(0.2, 0.4)))


# Learned discrete corruptions, wherever their parameters live


class Closure(dv.Corruption):
    def __init__(self, rate):
        super().__init__()
        self.rate = [rate]  # no parameter of this module

    def distribution(self, x):
        return dv.BitFlip(self.rate[0]).distribution(x)


class Borrowing(nn.Module):
    """A network that reads a tensor which it does not own."""

    def __init__(self, rate):
        super().__init__()
        self.tensors = [rate]

    def forward(self, x):
        return torch.logit(self.tensors[0]).expand(x.shape)


@pytest.mark.parametrize(
    "corruption",
    [lambda rate: dv.BitFlip(rate), Closure, lambda rate: dv.NetworkCorruption(Borrowing(rate), "bit-flip")],
    ids=["live level", "closure", "borrowed tensor"],
)
@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(num_corruptions=50, max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=50, max_plate_nesting=1),
        Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=["dvae", "diwae", "stock"],
)
def test_the_gradient_of_a_rate_that_the_corruption_does_not_own(corruption, bound):
    rate = tensor(0.2).requires_grad_()
    problem, x = BinaryProblem(corruption(rate)), tensor(1.0, 0.0, 1.0).expand(8, -1)
    exact_problem = BinaryProblem(dv.BitFlip(rate))
    (exact,) = torch.autograd.grad(exact_problem.l_dvae(x).sum(), rate)
    estimates = []
    for _ in range(30):
        loss = bound.differentiable_loss(problem.model, problem.guide, x)
        estimates.append(torch.autograd.grad(-loss, rate)[0])
    check_estimates("rate", torch.stack(estimates), exact)


@pytest.mark.parametrize("options", [{}, {"num_corruptions": 4}, {"num_particles": 3}], ids=str)
def test_a_corruption_in_a_plate_of_pixels_is_read_by_a_latent_outside_of_it(options):
    rate = tensor(0.2).requires_grad_()
    problem, x = BinaryProblem(dv.BitFlip(rate)), tensor(1.0, 0.0, 1.0).expand(400, -1)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                pyro.sample("x", dist.Bernoulli(logits=problem.logits(z)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("pixels", 3, dim=-1):
                x_tilde = dv.corrupt("x_tilde", problem.corruption, x, event_dim=0)
            pyro.sample("z", dist.Normal(*problem.encode(x_tilde)))

    (exact,) = torch.autograd.grad(problem.l_dvae(x).sum(), rate)
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=2, **options)
    estimates = []
    for _ in range(50):
        loss = bound.differentiable_loss(model, guide, x)
        estimates.append(torch.autograd.grad(-loss, rate)[0])
    check_estimates("rate", torch.stack(estimates), exact)


def test_a_live_scale_is_followed_pathwise():
    scale = tensor(0.3).requires_grad_()
    draw = dv.GaussianNoise(scale)(torch.zeros(4)).rsample()
    (gradient,) = torch.autograd.grad(draw.sum(), scale)
    torch.testing.assert_close(gradient, (draw / 0.3).sum())
    assert dv.GaussianNoise(nn.Parameter(tensor(0.3))).scale.value.requires_grad


# Programs that draw outside of their sample sites


def dropout_pair(weight):
    drop = nn.Dropout(0.5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.0), x, event_dim=0)
            pyro.sample("z", dist.Normal(weight * drop(x_tilde), 0.6))

    return model, guide


@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(),
        dv.TraceDenoising_ELBO(gradient="stl"),
        dv.TraceDenoising_ELBO(num_corruptions=2, gradient="stl", **LOOPED),
        dv.TraceDenoisingIWAE_ELBO(gradient="dreg"),
    ],
    ids=["pathwise", "stl", "stl, looped", "dreg"],
)
def test_dropout_in_an_encoder(bound):
    weight, x = tensor(0.6).requires_grad_(), tensor(0.9, -0.4).repeat(20)
    model, guide = dropout_pair(weight)
    # Each mask is 0 or 2 with probability ½; with mean m = 2wx: d/dw of −m²/2 − (x − m)²/2.
    exact = (0.5 * 2 * x * (x - 2 * (2 * weight.detach() * x))).sum()
    estimates = []
    for _ in range(50):
        loss = bound.differentiable_loss(model, guide, x)
        estimates.append(torch.autograd.grad(-loss, weight)[0])
    check_estimates("weight", torch.stack(estimates), exact)


@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=8, combine="mixture"),
        dv.TraceSemiImplicit_ELBO(num_mixture=3),
    ],
)
def test_a_mixture_over_corruptions_with_dropout_is_refused(bound):
    torch.manual_seed(1)
    model, guide = dropout_pair(tensor(0.6))
    with pytest.raises(dv.InputError, match=r"dropout.*combine='pooled'"):
        bound.loss(model, guide, torch.full((20,), 0.9))


# A corruption outside of the plate


def test_a_corruption_outside_of_the_plate_is_right_for_one_draw_and_refused_for_more():
    rate = tensor(0.2).requires_grad_()
    problem, x = BinaryProblem(dv.BitFlip(rate)), tensor(1.0, 0.0, 1.0).expand(2, -1)

    def guide(x):
        x_tilde = dv.corrupt("x_tilde", problem.corruption, x, event_dim=2)
        with pyro.plate("data", len(x)):
            loc, scale = problem.encode(x_tilde)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    (exact,) = torch.autograd.grad(problem.l_dvae(x).sum(), rate)
    estimates = []
    for _ in range(1000):
        loss = dv.TraceDenoising_ELBO().differentiable_loss(problem.model, guide, x)
        estimates.append(torch.autograd.grad(-loss, rate)[0])
    check_estimates("rate", torch.stack(estimates), exact)
    for bound in (
        dv.TraceDenoising_ELBO(num_corruptions=2),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=2, combine="mixture"),
        dv.TraceSemiImplicit_ELBO(num_mixture=3),
    ):
        with pytest.raises(dv.InputError, match=r"'x_tilde'.*inside the plate"):
            bound.loss(problem.model, guide, x)


# Scales, masks and densities on one side


def expectations(loc, scale, x=0.5):
    """Return E_q of log p(z), log p(x|z) and log q(z) of N(0, 1), N(z, 1) and q."""
    half = 0.5 * math.log(2 * math.pi)
    prior = -half - (loc**2 + scale**2) / 2
    likelihood = -half - ((x - loc) ** 2 + scale**2) / 2
    return prior, likelihood, -half - 0.5 - math.log(scale)


def scaled(factor_model=None, factor_guide=None, mask_model=None):
    def model():
        with poutine.scale(scale=factor_model or 1.0), poutine.mask(mask=mask_model is None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=tensor(0.5))

    def guide():
        with poutine.scale(scale=factor_guide or 1.0):
            pyro.sample("z", dist.Normal(0.2, 0.7))

    return model, guide


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"factor_model": 0.3}, (0.3, 1, 1)),
        ({"factor_guide": 0.3}, (1, 1, 0.3)),
        ({"factor_model": 0.3, "factor_guide": 0.3}, (0.3, 1, 0.3)),
        ({"mask_model": False}, (0, 1, 1)),
    ],
)
@pytest.mark.parametrize("kind", [dv.TraceDenoising_ELBO, dv.TraceMeanFieldDenoising_ELBO])
def test_scales_and_masks_on_one_side(kind, options, weights):
    model, guide = scaled(**options)
    prior, likelihood, entropy = expectations(0.2, 0.7)
    exact = weights[0] * prior + weights[1] * likelihood - weights[2] * entropy
    bound = kind(num_particles=20000, max_plate_nesting=0)
    draws = [-bound.loss(model, guide) for _ in range(20)]
    check_estimates("bound", torch.tensor(draws), torch.tensor(exact))


def test_a_point_with_a_density_of_its_own_keeps_it():
    def guide():
        pyro.sample("z", dist.Delta(tensor(0.2), log_density=tensor(1.7)))

    model, _ = scaled()
    expected = dist.Normal(0.0, 1.0).log_prob(tensor(0.2)) + dist.Normal(0.2, 1.0).log_prob(tensor(0.5)) - 1.7
    for kind in (dv.TraceDenoising_ELBO, dv.TraceMeanFieldDenoising_ELBO, dv.TraceDenoisingIWAE_ELBO):
        assert -kind(num_particles=3).loss(model, guide) == pytest.approx(float(expected), rel=1e-12)


def test_folded_latents_are_sampled():
    def folded(sign):
        def program():
            z = pyro.sample("z", dist.FoldedDistribution(dist.Normal(sign * 1.0, 1.0)))
            if sign < 0:
                pyro.sample("x", dist.Normal(z, 1.0), obs=tensor(0.5))

        return program

    bound = dv.TraceMeanFieldDenoising_ELBO(num_particles=50_000, max_plate_nesting=0)
    # Both are the same distribution, which leaves E log N(x; |z|, 1), z ~ N(1, 1).
    z = torch.linspace(-8, 10, 40001)
    weights = dist.Normal(1.0, 1.0).log_prob(z).exp()
    exact = torch.trapezoid(weights * dist.Normal(z.abs(), 1.0).log_prob(tensor(0.5)), z)
    draws = torch.tensor([-bound.loss(folded(-1), folded(1)) for _ in range(20)])
    check_estimates("bound", draws, exact)


# Programs that do not vectorise


X = torch.tensor([0.3, 0.1, -0.5, 1.0, 2.0], dtype=torch.float64)


def forgotten_event(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    with pyro.plate("data", 5):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def its_posterior(x):
    pyro.sample("w", dist.Normal(x / 2, 0.5**0.5).to_event(1))


def pairs_draws_with_elements(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    total = w.sum(0) if w.dim() > 1 else w
    pyro.sample("x", dist.Normal(total, 1.0).to_event(1), obs=x[:3])


def posterior_of_three(x):
    pyro.sample("w", dist.Normal(x[:3] / 2, 0.5**0.5).to_event(1))


BOUNDS = [
    dv.TraceDenoising_ELBO,
    dv.TraceMeanFieldDenoising_ELBO,
    dv.TraceDenoisingIWAE_ELBO,
    lambda **options: dv.TraceSemiImplicit_ELBO(num_mixture=2, **options),
]


@pytest.mark.filterwarnings("ignore:.*so one importance weight covers all of them")
@pytest.mark.parametrize("kind", BOUNDS, ids=["dvae", "mean field", "diwae", "semi-implicit"])
@pytest.mark.parametrize(("m", "k"), [(1, 2), (1, 10), (3, 2)])
def test_what_does_not_vectorise_is_refused_in_one_pass_and_right_one_by_one(kind, m, k):
    exact = float(dist.Normal(0.0, 2**0.5).log_prob(X).sum())
    options = {"num_corruptions": m, "num_particles": k}
    with pytest.raises(dv.InputError, match=r"vectorize_particles=False"):
        kind(**options).loss(forgotten_event, its_posterior, X)
    found = -kind(**options, **LOOPED).loss(forgotten_event, its_posterior, X)
    if kind is dv.TraceMeanFieldDenoising_ELBO:  # where log p(x, z) − log q(z) is not constant
        assert math.isfinite(found)
    else:
        assert found == pytest.approx(exact, rel=1e-12)


def test_draws_that_pair_with_elements_are_noticed():
    with pytest.raises(dv.InputError, match=r"'x'.*vectorize_particles=False"):
        dv.TraceDenoising_ELBO(num_particles=3).loss(pairs_draws_with_elements, posterior_of_three, X)


def test_what_a_program_raises_for_several_draws_is_one_sentence():
    net = nn.Linear(4, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 4]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x)
            pyro.sample("z", dist.Normal(net(x_tilde.reshape(-1, 4)), 1.0).to_event(1))

    x = torch.zeros(6, 4)
    with pytest.raises(dv.InputError, match=r"M = 2 .*K = 1 .*them vectorise.*vectorize_particles=False"):
        dv.TraceDenoising_ELBO(num_corruptions=2).loss(model, guide, x)
    assert math.isfinite(dv.TraceDenoising_ELBO(num_corruptions=2, **LOOPED).loss(model, guide, x))
    with pytest.raises(RuntimeError, match="invalid for input of size"):  # the program's own error
        dv.TraceDenoising_ELBO(num_corruptions=2).loss(model, guide, torch.zeros(6, 3))


def test_errors_of_pyros_validation_keep_its_words():
    def model():
        with pyro.plate("data", 10, 5):
            pyro.param("p", torch.ones(3, 5), event_dim=0)  # the plate has 10 rows
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for options in ({}, {"num_particles": 2}, {"num_particles": 2, **LOOPED}):
        pyro.clear_param_store()
        with pyro.validation_enabled(), pytest.raises(ValueError, match=r"invalid shape of pyro\.param"):
            dv.TraceDenoising_ELBO(**options).loss(model, model)


@pytest.mark.parametrize(
    ("bound", "options"),
    [
        (dv.TraceDenoising_ELBO, {}),
        (dv.TraceDenoising_ELBO, {"gradient": "stl"}),
        (dv.TraceDenoisingIWAE_ELBO, {}),
        (dv.TraceDenoisingIWAE_ELBO, {"gradient": "dreg"}),
        (dv.TraceDenoisingIWAE_ELBO, {"combine": "mixture"}),
        (dv.TraceSemiImplicit_ELBO, {"num_mixture": 2}),
        (dv.TraceMeanFieldDenoising_ELBO, {}),
    ],
    ids=str,
)
def test_one_by_one_has_the_expectation_of_one_pass(bound, options):
    rate = tensor(0.2).requires_grad_()
    problem, x = BinaryProblem(dv.BitFlip(rate)), tensor(1.0, 0.0, 1.0)[None].expand(20, -1)
    found = []
    for more in ({}, LOOPED):
        each = bound(num_corruptions=2, num_particles=2, max_plate_nesting=1, **options, **more)
        parameters = [rate, *problem.parameters()]
        rows = []
        for _ in range(30):
            loss = each.differentiable_loss(problem.model, problem.guide, x)
            grads = torch.autograd.grad(-loss, parameters, allow_unused=True)
            kept = [grad.reshape(-1) for grad in grads if grad is not None]
            rows.append(torch.cat([-loss.detach().reshape(1), *kept]))
        found.append(torch.stack(rows))
    one, other = found
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    assert bool(((one.mean(0) - other.mean(0)).abs() <= 5 * error + 1e-9).all())


# What one observation is


def local_pair(extra=lambda: None, plate="data", observed_plate=None):
    def model(x):
        extra()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if observed_plate is None:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        if observed_plate is not None:
            with pyro.plate(observed_plate, len(x)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate(plate, len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return model, guide


ROWS = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("extra", "added"),
    [
        (lambda: pyro.deterministic("tau", tensor(1.0)), 0.0),
        (lambda: pyro.factor("f", tensor(0.0)), 0.0),
        (lambda: pyro.factor("f", tensor(2.0)), 2.0),
    ],
    ids=["deterministic", "factor of 0", "factor"],
)
def test_a_site_that_is_the_same_in_all_draws_does_not_join_the_observations(extra, added):
    losses = []
    for pair in (local_pair(), local_pair(extra)):
        pyro.set_rng_seed(3)
        losses.append(dv.TraceDenoisingIWAE_ELBO(num_particles=100).loss(*pair, ROWS))
    assert losses[0] - losses[1] == pytest.approx(added, abs=1e-9)
    bounds = [dv.TraceDenoising_ELBO(), dv.TraceDenoisingIWAE_ELBO(num_particles=100)]
    if added:
        for bound in bounds:
            with pytest.raises(dv.InputError, match="'f' lies outside the plate"):
                dv.evaluate_bound(*local_pair(extra), ROWS, loss=bound)
        return
    for bound in bounds:
        one, other = (
            dv.evaluate_bound(*pair, ROWS, loss=bound, seed=1) for pair in (local_pair(), local_pair(extra))
        )
        torch.testing.assert_close(one.per_datum, other.per_datum)
    found = dv.log_likelihood(*local_pair(extra), ROWS, num_samples=2000, seed=0, progress=False)
    exact = dist.Normal(0.0, 2**0.5).log_prob(ROWS)
    assert float(((found.log_likelihood - exact) / found.standard_error).abs().max()) < 5


@pytest.mark.parametrize(
    ("pair", "names"),
    [
        (local_pair(observed_plate="rows"), "'x' lies in plate 'rows' and site 'z' in plate 'data'"),
        (local_pair(plate="rows"), "'z' lies in plate 'rows'"),
    ],
    ids=["model", "guide"],
)
@pytest.mark.filterwarnings("ignore:Found plate statements")
def test_plates_of_two_names_are_refused_where_they_would_join_the_observations(pair, names):
    assert math.isfinite(dv.TraceDenoising_ELBO(num_particles=3).loss(*pair, ROWS))
    for kind in (dv.TraceDenoisingIWAE_ELBO, dv.TraceSemiImplicit_ELBO):
        with pytest.raises(dv.InputError, match=f"{names}.*use one name"):
            kind(num_particles=3).loss(*pair, ROWS)
    with pytest.raises(dv.InputError, match=names):
        dv.evaluate_bound(*pair, ROWS, loss=dv.TraceDenoising_ELBO())


def test_one_weight_of_all_observations_is_warned_of_once():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))

    bound = dv.TraceDenoisingIWAE_ELBO(num_particles=3)
    covariance = torch.eye(50) + torch.ones(50, 50)
    exact = dist.MultivariateNormal(torch.zeros(50), covariance).log_prob(ROWS)
    with pytest.warns(UserWarning, match="'w' lies outside of plate 'data' and is shared by its 50"):
        assert -bound.loss(model, guide, ROWS) == pytest.approx(float(exact), rel=1e-12)
    assert -bound.loss(model, guide, ROWS) == pytest.approx(float(exact), rel=1e-12)  # and no second warning


def test_a_sequential_plate_around_everything_is_refused():
    def model(x):
        for i in pyro.plate("data", len(x), subsample_size=2):
            z = pyro.sample(f"z_{int(i)}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{int(i)}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x), subsample_size=2):
            pyro.sample(f"z_{int(i)}", dist.Normal(x[i] / 2, 0.5**0.5))

    x = ROWS[:4]
    for bound in (dv.TraceDenoisingIWAE_ELBO(num_particles=2), dv.TraceSemiImplicit_ELBO(num_mixture=2)):
        with pytest.raises(dv.InputError, match="plate 'data' is sequential"):
            bound.loss(model, guide, x)
    assert math.isfinite(dv.TraceDenoising_ELBO(num_particles=2).loss(model, guide, x))


def test_a_bound_is_used_for_a_second_model_of_deeper_plates():
    def deep(x):
        with pyro.plate("outer", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("outer", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    bound = dv.TraceDenoising_ELBO(num_particles=3)
    bound.loss(*local_pair(), ROWS)
    exact = 2 * float(dist.Normal(0.0, 2**0.5).log_prob(ROWS).sum())
    assert -bound.loss(deep, guide, ROWS) == pytest.approx(exact, rel=1e-12)


def sometimes(body):
    """Return a model whose plate has further sites if a second argument is given, and its guide."""

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            if y is not None:
                body(z, y)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("w", tensor(0.4)) * x, 0.6))

    return model, guide


def test_another_branch_of_a_program_is_checked_at_its_first_run():
    """New arguments select code that does not vectorise, or has more plates."""
    x = torch.tensor([0.3, -1.0, 0.7, 2.0])

    def mixing(z, y):
        pyro.sample("y", dist.Normal(z - z.mean(0), 0.5), obs=y)

    def deeper(z, y):
        with pyro.plate("repeats", 2, dim=-2):
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    for kind in (dv.TraceDenoising_ELBO, dv.TraceDenoisingIWAE_ELBO):
        bound = kind(num_particles=3)
        model, guide = sometimes(mixing)
        assert math.isfinite(bound.loss(model, guide, x))
        with pytest.raises(dv.InputError, match=r"site 'y' .* does not vectorise"):
            bound.loss(model, guide, x, x)
        model, guide = sometimes(deeper)
        bound.loss(model, guide, x)
        pyro.set_rng_seed(2)
        found = bound.loss(model, guide, x, torch.stack([x, x]))
        pyro.set_rng_seed(2)
        assert found == kind(num_particles=3, max_plate_nesting=2).loss(model, guide, x, torch.stack([x, x]))


def test_a_second_guide_of_a_semi_implicit_bound_is_checked():
    """Dropout is refused at the first run of each guide, not only at the first run of the bound."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x, rate=0.0):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.2), x, event_dim=0)
            pyro.sample("z", dist.Normal(nn.functional.dropout(x_tilde, rate), 0.6))

    x = torch.tensor([0.3, -1.0, 0.7, 2.0])
    for count in (1, 2):
        bound = dv.TraceSemiImplicit_ELBO(num_mixture=count)
        bound.loss(model, guide, x)
        with pytest.raises(dv.InputError, match="dropout"):
            bound.loss(model, lambda x: guide(x, 0.5), x)


def test_plates_of_other_sizes_in_model_and_guide_are_refused():
    def model(x):
        with pyro.plate("data", 1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:1])

    def guide(x):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False), pytest.raises(dv.InputError, match=r"'data' has size 1, but 4 rows"):
        dv.TraceDenoising_ELBO().loss(model, guide, ROWS)


# Likelihoods


def test_a_likelihood_is_proposed_from_the_guide_that_was_trained():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.5), x, event_dim=0)
            never_seen = (x_tilde - x).abs() < 1e-9
            pyro.sample("z", dist.Normal(torch.where(never_seen, 12.0, x_tilde / 2), 0.8))

    exact = dist.Normal(0.0, 2**0.5).log_prob(ROWS)
    found = dv.log_likelihood(model, guide, ROWS, num_samples=1000, seed=0, progress=False)
    assert found.proposal.kind == "mixture"
    assert abs(found.mean - float(exact.mean())) < 5 * found.sampling_error
    clean = dv.log_likelihood(model, guide, ROWS, num_samples=1000, seed=0, progress=False, proposal="clean")
    assert clean.mean < float(exact.mean()) - 10


def test_angles_beyond_a_turn_are_refused():
    """The density of angles repeats: with draws on many turns, the "bound" grows without limit."""
    weights = dist.Categorical(torch.ones(2))
    priors = [dist.VonMises(0.0, 1.0), dist.MixtureSameFamily(weights, dist.VonMises(tensor(-1.0, 1.0), 2.0))]
    for prior in priors:

        def model(x, prior=prior):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior)
                pyro.sample("x", dist.Normal(z.cos(), 0.5), obs=x)

        def guide(x, fn):
            with pyro.plate("data", len(x)):
                pyro.sample("z", fn)

        inside = functools.partial(guide, fn=dist.VonMises(tensor(0.4), 2.0))
        found = dv.log_likelihood(model, inside, ROWS[:2], num_samples=2000, seed=0, progress=False)
        angles = torch.linspace(-math.pi, math.pi, 2001)[:-1]
        joint = prior.log_prob(angles) + dist.Normal(angles.cos(), 0.5).log_prob(ROWS[:2, None])
        exact = joint.logsumexp(1) + math.log(2 * math.pi / 2000)
        assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())
        outside = functools.partial(guide, fn=dist.Normal(tensor(0.0), 100.0))
        with pytest.raises(dv.InputError, match="latent 'z' has a prior of angles"):
            dv.TraceDenoising_ELBO().loss(model, outside, ROWS)
        with pytest.raises(dv.InputError, match="latent 'z' is an angle"):
            dv.annealed_log_likelihood(model, inside, ROWS, num_steps=1, num_chains=1, progress=False)


@pytest.mark.parametrize("in_both", [False, True])
def test_a_corruption_in_the_model_is_refused(in_both):
    """It would be noise of p(x), so a likelihood on clean input would belong to another model."""

    def noisy(x):
        return dv.corrupt("x_tilde", dv.GaussianNoise(0.3), x, event_dim=0)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(noisy(x), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(noisy(x) if in_both else x, 0.6))

    message = r"model: site 'x_tilde' is a corruption .* belongs in the guide"
    told = "Found auxiliary vars" if in_both else "Found vars in model"
    with pytest.warns(UserWarning, match=told), pytest.raises(dv.InputError, match=message):
        dv.TraceDenoising_ELBO().loss(model, guide, ROWS)


def test_errors_of_a_guide_are_one_sentence():
    model, guide = local_pair()
    fixed = poutine.condition(guide, data={"z": ROWS})
    for bound in (dv.TraceDenoising_ELBO(), dv.TraceDenoising_ELBO(num_particles=2)):
        with pytest.raises(dv.InputError, match=r"latent 'z' is observed in the guide.*condition the model"):
            bound.loss(model, fixed, ROWS)


def test_a_conditioned_corruption_is_the_same_in_every_run():
    model, _ = local_pair()

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x, event_dim=0)
            pyro.sample("z", dist.Normal(x_tilde / 2, 0.5**0.5))

    exact = float(dist.Normal(0.0, 2**0.5).log_prob(ROWS).sum())
    fixed = poutine.condition(guide, data={"x_tilde": ROWS})
    mixture = dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, combine="mixture")
    for bound in (mixture, dv.TraceSemiImplicit_ELBO(num_corruptions=2, num_mixture=2)):
        assert -bound.loss(model, fixed, ROWS) == pytest.approx(exact, rel=1e-12)


# Elements of a plate that a later latent outside of it joins


def _joined_by_a_later_latent():
    a, c = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.7))
    x = torch.tensor([1.5, -0.5], dtype=torch.float64)

    def model():
        elements = pyro.plate("elements", 2)
        with elements:
            pyro.sample("bit", dist.Bernoulli(x.new_full((2,), 0.5)))
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with elements:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        with pyro.plate("elements", 2):
            bit = pyro.sample("bit", dist.Bernoulli(logits=a.expand(2)))
        pyro.sample("z", dist.Normal(c * bit.sum(-1, keepdim=True), 1.0))

    total = torch.zeros((), dtype=torch.float64)
    for bits in itertools.product((0.0, 1.0), repeat=2):
        each = torch.tensor(bits, dtype=torch.float64)
        q = dist.Bernoulli(logits=a.expand(2)).log_prob(each).sum()
        mean = c * each.sum()
        reconstruction = dist.Normal(mean, 1.0).log_prob(x).sum() - 1  # E (x − z)² = (x − mean)² + 1
        total = total + q.exp() * (2 * math.log(0.5) - q - mean.square() / 2 + reconstruction)
    return model, guide, (a, c), torch.autograd.grad(total, (a, c))


@pytest.mark.parametrize("options", [{}, {"baseline": "none"}])
def test_a_later_latent_outside_of_a_plate_joins_its_elements(options):
    model, guide, parameters, expected = _joined_by_a_later_latent()
    bound = dv.TraceDenoising_ELBO(num_particles=2000, max_plate_nesting=1, **options)
    found = []
    for seed in range(40):
        pyro.set_rng_seed(seed)
        found.append(torch.stack(torch.autograd.grad(-bound.differentiable_loss(model, guide), parameters)))
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(len(found))
    assert bool(((found.mean(0) - torch.stack(expected)).abs() < 5 * error).all())
    assert float(error[0]) < 0.02


@pytest.mark.parametrize("conditioned", [True, False])
def test_an_observed_site_of_the_guide_is_refused_and_hidden_gives_the_bound(conditioned):
    """Pyro's loss subtracts log q(y|x) of labels that the guide observes, too, which no bound does."""
    x, y = tensor(0.3, -0.8, 1.2), tensor(1.0, 0.0, 1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        slope = pyro.param("slope", tensor(0.7))
        with pyro.plate("data", len(x)):
            obs = None if conditioned else y
            fn = dist.Bernoulli(logits=slope * x)
            label = pyro.sample("y", fn, obs=obs, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(0.8 * x + 0.2 * label, math.sqrt(0.2)))  # the posterior

    model = poutine.condition(model, data={"y": y})
    guide = poutine.condition(guide, data={"y": y}) if conditioned else guide
    for draws in (1, 3):
        bound = dv.TraceDenoising_ELBO(num_particles=draws)
        with pytest.raises(dv.InputError, match=r"'y' is observed in the guide.* hide=\['y'\]"):
            bound.loss(model, guide, x)
        evidence = dist.Bernoulli(0.4).log_prob(y) + dist.Normal(y, math.sqrt(1.25)).log_prob(x)
        hidden = poutine.block(guide, hide=["y"])
        torch.testing.assert_close(-bound.loss(model, hidden, x), evidence.sum().item())
