"""The distributions that priors and guides share, against quadrature, enumeration and closed forms."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from torch.distributions import kl_divergence
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_dvae as dv
from pyro_dvae.distributions import Flattened, Logistic, LogitBeta, Mixture, OneHot, Temperature
from pyro_dvae.errors import InputError


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


def integral(function, limit, count=400_001):
    points = torch.linspace(-limit, limit, count, dtype=torch.float64)
    return torch.trapezoid(function(points), points)


SHAPES = [(0.5, 0.5), (0.1, 0.1), (0.05, 0.9), (2.0, 3.0)]


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_density_of_a_logit_beta_is_normalised_and_has_its_moments(shapes):
    fn = LogitBeta(*real(*shapes))
    limit = 60 / min(shapes)
    torch.testing.assert_close(
        integral(lambda z: fn.log_prob(z).exp(), limit), real(1.0)[0], rtol=0, atol=1e-7
    )
    mean = integral(lambda z: z * fn.log_prob(z).exp(), limit)
    torch.testing.assert_close(mean, fn.mean, rtol=1e-7, atol=1e-6)
    variance = integral(lambda z: (z - mean) ** 2 * fn.log_prob(z).exp(), limit)
    torch.testing.assert_close(variance, fn.variance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shapes", SHAPES)
def test_a_logit_beta_is_a_beta_seen_on_another_scale(shapes):
    z = torch.linspace(-12, 12, 25, dtype=torch.float64)
    b = z.sigmoid()
    expected = dist.Beta(*real(*shapes)).log_prob(b) + b.log() + torch.log1p(-b)
    torch.testing.assert_close(LogitBeta(*real(*shapes)).log_prob(z), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shapes", SHAPES)
def test_draws_of_a_logit_beta(shapes):
    fn = LogitBeta(*real(*shapes))
    z = fn.sample((20_000,))
    check_estimates("mean", z, fn.mean)
    check_estimates("variance", (z - fn.mean) ** 2, fn.variance)
    check_estimates("E b", z.sigmoid(), real(shapes[0] / sum(shapes))[0])


def test_a_logit_beta_of_tiny_shapes_is_finite_in_single_precision():
    fn = LogitBeta(torch.full((1000,), 0.01), torch.full((1000,), 0.01))
    z = fn.sample((20,))
    assert torch.isfinite(z).all()
    assert z.abs().max() > 100  # where the Beta variable itself is 0 or 1 to the last digit
    assert torch.isfinite(fn.log_prob(z)).all()


def test_a_logit_beta_refuses_bad_shapes_and_values():
    with pytest.raises(ValueError, match="concentration1"):
        LogitBeta(real(-1.0), real(1.0))
    with pytest.raises(ValueError, match="value argument"):
        LogitBeta(real(0.5), real(0.5)).expand([3]).log_prob(real(math.nan, 0.0, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("uniform", [torch.zeros, torch.ones])
def test_a_logistic_draw_is_finite_at_the_ends(monkeypatch, dtype, uniform):
    fn = Logistic(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)).expand([2, 3])
    assert isinstance(fn, Logistic)
    monkeypatch.setattr(torch, "rand", lambda shape, **options: uniform(shape, **options))
    value = fn.rsample()
    assert value.dtype == dtype
    assert torch.isfinite(value).all()
    assert torch.isfinite(fn.log_prob(value)).all()


def test_logistic_draws_have_their_moments_and_gradients():
    loc, scale = real(0.7).requires_grad_(), real(1.3).requires_grad_()
    z = Logistic(loc, scale).rsample((20_000,))
    check_estimates("mean", z.detach(), loc.detach())
    check_estimates("variance", (z.detach() - 0.7) ** 2, real(1.3**2 * math.pi**2 / 3))
    grads = torch.autograd.grad(z.mean(), [loc, scale])
    torch.testing.assert_close(grads[0], real(1.0))
    torch.testing.assert_close(grads[1], ((z - loc) / scale).mean().detach()[None])


def test_one_hot_draws_have_their_frequencies():
    logits = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, -3.0]], dtype=torch.float64)
    fn = OneHot(logits=logits)
    z = fn.sample((20_000,))
    assert torch.equal(z.sum(-1), torch.ones_like(z[..., 0]))
    check_estimates("frequency", z, logits.softmax(-1))
    assert fn.expand([5, 2]).sample().shape == (5, 2, 3)
    torch.testing.assert_close(fn.log_prob(z), (z * logits.log_softmax(-1)).sum(-1))


def test_one_hot_draws_can_be_recorded():
    with pyro.validation_enabled(False):
        graph = make_fx(lambda logits: OneHot(logits=logits).sample())(torch.zeros(4, 3))
    assert torch.equal(graph(torch.zeros(4, 3)).sum(-1), torch.ones(4))


def test_flattened_vectors_equal_those_of_the_base():
    logits = torch.randn(5, 2, 3, dtype=torch.float64)
    fn = Flattened(OneHot(logits=logits))
    assert (fn.batch_shape, fn.event_shape) == ((5,), (6,))
    wide = fn.expand([4, 5])
    z = wide.sample((7,))
    assert z.shape == (7, 4, 5, 6)
    expected = (z * logits.log_softmax(-1).flatten(-2)).sum(-1)
    torch.testing.assert_close(wide.log_prob(z), expected)
    torch.testing.assert_close(fn.mean, logits.softmax(-1).flatten(-2))
    assert not fn.has_rsample


def test_flattened_probabilities_sum_to_one_and_give_the_divergence():
    p, q = (Flattened(OneHot(logits=torch.randn(2, 3, dtype=torch.float64))) for _ in range(2))
    unit = torch.eye(3, dtype=torch.float64)
    z = torch.stack([torch.cat(pair) for pair in itertools.product(unit, unit)])
    torch.testing.assert_close(p.log_prob(z).exp().sum(), real(1.0)[0])
    exact = (p.log_prob(z).exp() * (p.log_prob(z) - q.log_prob(z))).sum()
    torch.testing.assert_close(kl_divergence(p, q), exact)


def test_flattened_relaxed_draws_carry_gradients():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    fn = Flattened(ExpRelaxedCategorical(real(0.5)[0], logits=logits))
    assert fn.has_rsample
    fn.rsample((4,))[..., 0].sum().backward()
    assert torch.count_nonzero(logits.grad[0]) == 3
    assert torch.count_nonzero(logits.grad[1]) == 0


def test_a_temperature_follows_its_schedule_in_place():
    temperature = Temperature(dv.LinearSchedule(1.0, 0.5, 10))
    before = temperature()
    temperature.set_epoch(5)
    assert float(before) == 0.75
    assert temperature() is before


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, "cold", None, dv.LinearSchedule(1.0, 0.0, 3)])
def test_a_bad_temperature_is_refused(value):
    with pytest.raises(InputError, match=r"^temperature: expected a number"):
        Temperature(value)


def test_flattened_vectors_have_the_support_of_the_vectors():
    support = Flattened(OneHot(logits=torch.zeros(2, 3))).support
    assert (support.is_discrete, support.event_dim) == (True, 1)
    inside, outside = torch.tensor([[1.0, 0, 0, 0, 0, 1], [1, 0, 0, 1, 0, 1]])
    assert support.check(torch.stack([inside, outside])).tolist() == [True, False]
    relaxed = Flattened(ExpRelaxedCategorical(torch.tensor(1.0), logits=torch.zeros(2, 3)))
    assert not relaxed.support.is_discrete


def test_a_mixture_has_the_support_of_its_components():
    parts = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    fn = Mixture(dist.Categorical(logits=torch.zeros(3)), parts).expand([4])
    assert isinstance(fn, Mixture)
    assert fn.support.check(fn.sample()).tolist() == [True] * 4
    assert torch.distributions.biject_to(fn.support)(torch.ones(4, 2)).tolist() == torch.ones(4, 2).tolist()
