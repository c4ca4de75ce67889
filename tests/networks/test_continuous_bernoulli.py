"""The density of values in [0, 1], against quadrature, high precision and finite differences."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dvae.distributions.continuous_bernoulli import _NEAR, log_sinhc
from pyro_dvae.errors import InputError
from pyro_dvae.networks import ContinuousBernoulli

# The two branches meet near 1/2; Pyro's own distribution of that name changes its formula at ±0.004.
LOGITS = [0.0, 1e-12, 1e-6, 1e-3, 3.9e-3, 4.1e-3, 0.01, 0.1, 0.3, 0.4999, _NEAR, 0.5001, 0.7, 1.0, 2.0, 5.0]
LOGITS += [10.0, 15.9, 16.1, 20.0, 36.0, 40.0, 88.0, 200.0, 1000.0]
LOGITS = torch.tensor(sorted({sign * logit for logit in LOGITS for sign in (1, -1)}), dtype=torch.float64)


NODES = [torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(200)]


def unit_quadrature(logit):
    """Gauss-Legendre nodes on [0, 1], crowded where the density of ``logit`` is: at the rising end."""
    t, weight = NODES
    reach = min(1.0, 60 / max(abs(logit), 1e-9))
    x, weight = reach * (1 + t) / 2, weight * reach / 2
    return (1 - x if logit > 0 else x), weight


def moment(logits, function):
    """∫ p(x) function(x) dx of every logit."""
    results = []
    for logit in logits:
        x, weight = unit_quadrature(float(logit))
        results.append((weight * ContinuousBernoulli(logit).log_prob(x).exp() * function(x)).sum())
    return torch.stack(results)


def exact_mean(logits):
    """E x = 1/(1 − e^−l) − 1/l, by series where that loses its digits."""
    a = logits.double()
    series = 0.5 + a / 12 - a**3 / 720 + a**5 / 30240 - a**7 / 1209600 + a**9 / 47900160
    stable = torch.where(a.abs() < 0.1, 1.0, a)
    return torch.where(a.abs() < 0.1, series, 1 / -torch.expm1(-stable) - 1 / stable)


def test_the_density_is_normalised():
    torch.testing.assert_close(moment(LOGITS, torch.ones_like), torch.ones_like(LOGITS), rtol=0, atol=1e-11)


def test_mean_and_variance_equal_those_of_the_density():
    d = ContinuousBernoulli(LOGITS)
    torch.testing.assert_close(d.mean, moment(LOGITS, lambda x: x), rtol=0, atol=1e-12)
    torch.testing.assert_close(d.mean, exact_mean(LOGITS), rtol=0, atol=1e-13)
    # Far out the density is near an edge, where a central moment keeps its digits.
    pairs = zip(LOGITS, d.mean, strict=True)
    second = [moment(logit[None], lambda x, mean=mean: (x - mean) ** 2)[0] for logit, mean in pairs]
    torch.testing.assert_close(d.variance, torch.stack(second), rtol=1e-9, atol=1e-14)


def test_the_density_equals_pyros_where_that_is_exact():
    logits = torch.linspace(-8, 8, 321, dtype=torch.float64)[:, None]
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = dist.ContinuousBernoulli(logits=logits)
    ours = ContinuousBernoulli(logits)
    torch.testing.assert_close(ours.log_prob(x), expected.log_prob(x), rtol=0, atol=1e-11)
    torch.testing.assert_close(ours.mean, expected.mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.variance, expected.variance, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_x_minus_the_mean(dtype):
    """∂ log p / ∂l = x − E x, which a formula in λ loses near 1/2 and beyond the clamp."""
    eps = torch.finfo(dtype).eps
    x = torch.linspace(0, 1, 5, dtype=dtype)[:, None]
    logits = LOGITS.to(dtype).expand(5, -1).contiguous().requires_grad_()
    value = ContinuousBernoulli(logits).log_prob(x)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    exact = x.double() - exact_mean(logits.detach())
    torch.testing.assert_close(gradient.double(), exact, rtol=0, atol=10 * eps)
    double = ContinuousBernoulli(logits.detach().double()).log_prob(x.double())
    # l (x − 1/2) and l/2 cancel where the pixel is at the likely end.
    assert ((value.detach().double() - double).abs() <= eps * (4 + logits.detach().abs())).all()


def test_the_gradient_is_the_finite_difference():
    logits = LOGITS[LOGITS.abs() < 300].clone().requires_grad_()
    x = torch.full_like(logits, 0.3).requires_grad_()

    def log_prob(logits, x):
        return ContinuousBernoulli(logits, validate_args=False).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (logits, x), eps=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(log_prob, (logits, x), eps=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_the_moments_are_finite_and_right(dtype):
    """∂ E x / ∂l = Var x."""
    logits = LOGITS.to(dtype).requires_grad_()
    d = ContinuousBernoulli(logits)
    (slope,) = torch.autograd.grad(d.mean.sum(), logits, retain_graph=True)
    torch.testing.assert_close(slope, d.variance, rtol=0, atol=100 * torch.finfo(dtype).eps)
    (curvature,) = torch.autograd.grad(d.variance.sum(), logits)
    assert torch.isfinite(curvature).all()


def test_the_two_branches_meet():
    below = torch.tensor(_NEAR, dtype=torch.float64).nextafter(torch.tensor(0.0, dtype=torch.float64))
    u = _NEAR / 2
    assert log_sinhc(below).item() == pytest.approx(math.log(math.sinh(u) / u), rel=1e-14)
    assert log_sinhc(below).item() == pytest.approx(log_sinhc(torch.tensor(_NEAR).double()).item(), rel=1e-14)


@pytest.mark.parametrize("logit", [-300.0, -4.0, -0.2, 0.0, 1e-9, 0.3, 6.0, 90.0])
def test_draws_have_the_distribution(logit):
    d = ContinuousBernoulli(torch.tensor([logit, -logit], dtype=torch.float64))
    draws = d.sample((40_000,))
    assert draws.shape == (40_000, 2)
    assert ((draws >= 0) & (draws <= 1)).all()
    for power in (1, 2):
        values = draws**power
        exact = moment(d.logits, lambda x, power=power: x**power)
        assert ((values.mean(0) - exact).abs() < 5 * values.std(0) / math.sqrt(40_000)).all()


def test_it_expands_and_masks_as_a_pyro_distribution():
    logits, x = torch.randn(3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    d = ContinuousBernoulli(logits)
    expected = d.log_prob(x)
    assert d.expand_by([4]).batch_shape == (4, 3)
    assert d.expand_by([4]).sample((2,)).shape == (2, 4, 3)
    torch.testing.assert_close(d.expand_by([4]).log_prob(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(d.to_event(1).log_prob(x), expected.sum(-1), rtol=0, atol=1e-15)
    masked = d.expand_by([4]).mask(torch.tensor([[True], [False], [True], [False]]))
    assert (masked.log_prob(x)[1::2] == 0).all()


def test_validation_refuses_values_outside_the_unit_interval():
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="within the support"):
        ContinuousBernoulli(torch.zeros(2)).log_prob(torch.tensor([0.5, 1.5]))
    with pytest.raises(InputError, match="logits: expected a tensor, got float"):
        ContinuousBernoulli(0.3)
