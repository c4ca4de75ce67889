"""Discretised logistics and ordered categories against sums, scipy, Pyro and finite differences."""

import math

import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from scipy import stats

from pyro_dvae.distributions.intervals import DiscretisedLogistic, Ordinal, log_interval
from pyro_dvae.networks import ConvolutionalDecoder, DiscretisedLogisticDecoder

F64 = torch.float64
LOC = torch.tensor([0.5, 0.02, 0.97, -0.4, 1.3, 0.25], dtype=F64)
LOG_SCALE = torch.tensor([-2.0, -4.0, -3.0, -1.0, -7.0, -7.0], dtype=F64)


def levels(count):
    return torch.arange(count, dtype=F64) / (count - 1)


@pytest.mark.parametrize("count", [2, 5, 256])
def test_levels_have_the_mass_of_their_intervals(count):
    fn, x = DiscretisedLogistic(LOC, LOG_SCALE, count), levels(count)[:, None].expand(-1, 6)
    found = fn.log_prob(x)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(6, dtype=F64))
    torch.testing.assert_close((found.exp() * x).sum(0), fn.mean)
    torch.testing.assert_close((found.exp() * (x - fn.mean) ** 2).sum(0), fn.variance)
    if count > 2:
        half, inner = 0.5 / (count - 1), x[1:-1].numpy()
        low, high = (
            torch.as_tensor(stats.logistic.cdf(inner + side, LOC.numpy(), LOG_SCALE.exp().numpy()))
            for side in (-half, half)
        )
        torch.testing.assert_close(found[1:-1].exp(), high - low, rtol=1e-6, atol=1e-14)


def test_mass_far_from_the_location_keeps_its_logarithm_and_gradient_in_single_precision():
    loc = torch.tensor([0.1], requires_grad=True)
    fn = DiscretisedLogistic(loc, torch.tensor([math.log(5e-4)]))
    found = fn.log_prob(torch.tensor([0.9]))
    exact = DiscretisedLogistic(loc.double(), torch.tensor([math.log(5e-4)], dtype=F64))
    torch.testing.assert_close(
        found.double(), exact.log_prob(torch.tensor([230 / 255], dtype=F64)), rtol=1e-4, atol=0
    )
    (gradient,) = torch.autograd.grad(found, [loc])
    assert float(gradient) == pytest.approx(1 / 5e-4, rel=1e-3)  # each unit of distance costs 1/s nats


def test_an_interval_of_the_logistic():
    low, high = torch.tensor([-3.0, 0.0, 50.0], dtype=F64), torch.tensor([-1.0, 2.0, 51.0], dtype=F64)
    expected = (high.sigmoid() - low.sigmoid())[:2].log()
    torch.testing.assert_close(log_interval(low, high)[:2], expected)
    assert float(log_interval(low, high)[2]) == pytest.approx(-50 + math.log(1 - math.exp(-1)))


def test_draws_are_levels():
    fn = DiscretisedLogistic(LOC[:4], LOG_SCALE[:4], 9).expand([2, 4])
    draws = fn.sample((10_000,))
    torch.testing.assert_close(draws, (draws * 8).round() / 8)
    check_estimates("mean", draws, fn.mean)
    check_estimates("variance", (draws - fn.mean) ** 2, fn.variance)


@pytest.mark.parametrize("mixture", [False, True])
def test_a_decoder_gives_probabilities_of_bytes(mixture):
    torch.manual_seed(0)
    decoder = DiscretisedLogisticDecoder(3, 2, (5,), "tanh", mixture=mixture, levels=16).double()
    torch.nn.init.normal_(decoder.head.bias)
    fn = decoder(torch.randn(4, 2, dtype=F64)).base_dist
    x = levels(16)[:, None, None].expand(16, 4, 3)
    mass = fn.log_prob(x).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(4, 3, dtype=F64))
    torch.testing.assert_close((mass * x).sum(0), fn.mean)
    assert fn.support.check(fn.sample()).all()


@pytest.mark.parametrize("mixture", [False, True])
def test_gradients_match_finite_differences(mixture):
    decoder = DiscretisedLogisticDecoder(3, 2, (4,), "tanh", mixture=mixture).double()
    names, values = zip(*decoder.named_parameters(), strict=True)
    z, x = torch.randn(2, 2, dtype=F64), torch.tensor([[0, 1, 100], [254, 255, 3]], dtype=F64) / 255

    def log_likelihood(*parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(decoder, named, (z,)).log_prob(x)

    assert torch.autograd.gradcheck(log_likelihood, values)


@pytest.mark.parametrize("likelihood", ["discretised-logistic", "discretised-logistic-mixture"])
def test_a_convolutional_decoder_of_colour(likelihood):
    decoder = ConvolutionalDecoder(48, 2, image_shape=(3, 4, 4), channels=(4,), likelihood=likelihood)
    fn = decoder(torch.randn(5, 2))
    assert (fn.batch_shape, fn.event_shape) == ((5,), (48,))
    assert torch.isfinite(fn.log_prob(torch.rand(5, 48))).all()


def test_ordered_categories_equal_those_of_pyro():
    predictor = torch.randn(6, dtype=F64)
    cutpoints = torch.tensor([-1.5, 0.2, 0.9], dtype=F64)
    k = torch.arange(4)[:, None]
    expected = dist.OrderedLogistic(predictor, cutpoints).log_prob(k)
    torch.testing.assert_close(Ordinal(predictor, cutpoints).log_prob(k), expected)
    assert Ordinal(predictor, cutpoints).expand([2, 6]).batch_shape == (2, 6)


def test_a_category_far_out_keeps_its_gradient():
    predictor = torch.tensor(60.0, requires_grad=True)
    found = Ordinal(predictor, torch.tensor([-1.0, 1.0])).log_prob(torch.tensor(0))
    found.backward()
    assert float(found.detach()) == pytest.approx(-61.0)
    assert float(predictor.grad) == pytest.approx(-1.0)
