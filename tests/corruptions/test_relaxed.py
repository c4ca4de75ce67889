import math

import pyro
import pytest
import torch
from exact import BinaryProblem, check_estimates, gradients
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_dvae as dv
from pyro_dvae.corruptions import BitFlip, Masking, NetworkCorruption, SaltAndPepper
from pyro_dvae.corruptions.replacement import RelaxedReplacement
from pyro_dvae.errors import InputError

GREY = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
KINDS = [BitFlip, Masking, SaltAndPepper]


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def relaxed_mean(f, x, atoms, rate, temperature, points=200_001):
    """E f(x̃) of a relaxed replacement by the midpoint rule over its uniform number."""
    uniform = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    step = torch.sigmoid((torch.logit(rate) + torch.logit(uniform)) / temperature)
    return sum(share * f((1 - step) * x + step * atom).mean() for atom, share in atoms)


def discrete_mean(f, x, atoms, rate):
    return (1 - rate) * f(x) + rate * sum(share * f(double(atom)) for atom, share in atoms)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_tend_to_the_discrete_ones(kind):
    rate = double(0.3)
    discrete, value = kind(rate)(GREY), kind(rate, temperature=0.003)(GREY).sample((20_000,))
    candidates = torch.stack([GREY, torch.zeros_like(GREY), torch.ones_like(GREY), 1 - GREY])
    for candidate in candidates:
        near = ((value - candidate).abs() < 0.01).double()
        # A step is neither 0 nor 1 to a hundredth with probability below 0.7 %.
        mass = discrete.mass(candidate)
        errors = 5 * near.std(0) / math.sqrt(len(near))
        assert bool(((near.mean(0) - mass).abs() <= errors + 0.007).all())
    distance = (value - candidates.unsqueeze(1)).abs().min(0).values
    assert float((distance > 0.01).double().mean()) < 0.01


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_a_step_is_more_than_half_with_probability_rate(temperature):
    rates = double([0.1, 0.5, 0.8])
    step = Masking(rates, temperature=temperature)(torch.ones(3, dtype=torch.float64)).sample((20_000,))
    assert bool(((step > 0) & (step < 1)).any())
    check_estimates("past half", (step < 0.5).double(), rates)


def test_a_step_at_temperature_one_is_uniform_at_rate_one_half():
    kept = Masking(0.5, temperature=1.0)(torch.ones(20_000, dtype=torch.float64)).sample()
    for power in (1, 2, 3):
        check_estimates("moment", kept**power, double(1 / (power + 1)))


@pytest.mark.parametrize("temperature", [0.1, 10.0])
def test_level_zero_changes_nothing_and_one_is_finite(temperature):
    x = torch.rand(500)
    assert torch.equal(BitFlip(0.0, temperature=temperature)(x).sample(), x)
    value = BitFlip(1.0, temperature=temperature)(x).sample()
    assert bool(((value >= 0) & (value <= 1)).all())


def test_a_saturated_rate_has_a_finite_gradient():
    corruption = Masking(0.5, learnable=True, temperature=0.5)
    for raw in (-200.0, 200.0):
        with torch.no_grad():
            corruption.rate.raw.fill_(raw)
        (gradient,) = torch.autograd.grad(corruption(torch.rand(50)).rsample().sum(), corruption.rate.raw)
        assert bool(gradient.isfinite())


def test_a_draw_follows_the_data_by_both_ends():
    """dx̃/dx = (1 − s) + s da/dx, which is 1 − s for a mask and 1 − 2s for a flip."""
    x = torch.rand(50, dtype=torch.float64) * 0.4 + 0.05
    x.requires_grad_()
    for kind, slope in ((Masking, lambda v: v / x), (BitFlip, lambda v: 1 - 2 * (v - x) / (1 - 2 * x))):
        value = kind(0.4, temperature=0.8)(x).rsample()
        (gradient,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, slope(value).detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.2, 0.7])
def test_gradients_equal_those_of_the_relaxed_mean(kind, temperature):
    """Unbiased for E f(x̃) under the relaxed draws, by quadrature."""
    x, start = double(0.3), double(0.25)
    corruption = kind(start, learnable=True, temperature=temperature)

    def f(value):
        return (value - 0.8).square().exp()

    rate = corruption.rate()
    exact = relaxed_mean(f, x, corruption.atoms(x, rate), rate, temperature)
    (expected,) = torch.autograd.grad(exact, corruption.rate.raw)
    raw = corruption.rate.raw.detach().expand(40_000).clone().requires_grad_()
    atoms = corruption.atoms(x, start)
    draws = RelaxedReplacement(x.expand(40_000), torch.sigmoid(raw), atoms, temperature).rsample()
    (found,) = torch.autograd.grad(f(draws).sum(), raw)
    check_estimates("gradient", found, expected)
    check_estimates("mean", f(draws).detach(), exact.detach())


def test_the_bias_of_the_gradient_is_of_the_order_of_the_temperature():
    def f(value):
        return (value - 0.8).square().exp()

    def slope(mean):
        rate = double(0.25).requires_grad_()
        (gradient,) = torch.autograd.grad(mean(rate), rate)
        return float(gradient)

    atoms = [(1.0, 0.3), (0.0, 0.7)]
    exact = slope(lambda rate: discrete_mean(f, double(0.3), atoms, rate))
    bias = [
        abs(slope(lambda rate, t=t: relaxed_mean(f, double(0.3), atoms, rate, t)) / exact - 1)
        for t in (0.2, 0.1, 0.05, 0.025)
    ]
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 0.02
    # Halving the temperature halves it.
    assert bias[2] / bias[3] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_gradient_of_a_learned_rate_is_near_the_exact_one(elbo):
    """Biased: within a tenth of the exact gradient of the discrete bound at this temperature."""
    corruption = BitFlip(double(0.3), learnable=True, temperature=0.1)
    problem = BinaryProblem(corruption)
    x = double([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    corruption.temperature = None
    problem.l_dvae(x).sum().backward()
    exact = gradients(problem)["corruption.rate.raw"]
    corruption.temperature = 0.1
    estimator = elbo(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
    estimator.loss_and_grads(problem.model, problem.guide, x)
    assert -float(gradients(problem)["corruption.rate.raw"]) == pytest.approx(float(exact), rel=0.1)


def test_the_relaxed_gradient_varies_less_than_the_score_function():
    spread = {}
    for temperature in (None, 0.5):
        pyro.clear_param_store()
        corruption = BitFlip(double(0.3), learnable=True, temperature=temperature)
        problem, x, found = BinaryProblem(corruption), double([[0.0, 1.0, 1.0]]), []
        for _ in range(200):
            dv.TraceDenoising_ELBO().loss_and_grads(problem.model, problem.guide, x)
            found.append(gradients(problem)["corruption.rate.raw"])
        spread[temperature] = float(torch.stack(found).std())
    assert 0 < spread[0.5] < 0.5 * spread[None]


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "low", True, [0.5]])
def test_bad_temperatures_are_refused(temperature):
    for kind in KINDS:
        with pytest.raises(
            InputError, match=r"^temperature: expected a number (above 0|in \[-inf, inf\]), got"
        ):
            kind(0.1, temperature=temperature)
    corruption = BitFlip(0.1)
    corruption.temperature = temperature
    with pytest.raises(InputError, match=r"^temperature: expected a number"):
        corruption(torch.rand(3))


def test_a_learned_salt_share_is_refused():
    with pytest.raises(InputError, match=r"^temperature: .* no gradient for the share of salt='rate'"):
        SaltAndPepper(0.1, "rate", temperature=0.5)
    with pytest.raises(InputError, match=r"^temperature: .* no gradient for the share of salt='rate'"):
        NetworkCorruption(torch.nn.Linear(3, 3), "salt-and-pepper", salt="rate", temperature=0.5)
    later = SaltAndPepper(0.1, "rate", learnable=True)
    later.temperature = 0.5
    with pytest.raises(InputError, match=r"^atoms: .* no gradient for shares"):
        later(torch.rand(3))


def test_the_site_is_pathwise():
    corruption = SaltAndPepper(0.3, learnable=True, temperature=0.5)
    x = torch.rand(4, 3)
    with pyro.plate("data", 4):
        dv.corrupt("x_tilde", corruption, x).sum().backward()
    assert float(corruption.rate.raw.grad) != 0
