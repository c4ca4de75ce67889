import math

import pytest
import torch
from exact import check_estimates

from pyro_dvae.corruptions import GaussianNoise


def test_moments_and_density():
    x = torch.tensor([-3.0, 0.2, 5.0], dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    distribution = GaussianNoise(scale)(x)
    value = distribution.sample((20_000,))
    check_estimates("mean", value, x)
    check_estimates("variance", (value - x) ** 2, scale**2)
    expected = -(((value - x) / scale) ** 2) / 2 - scale.log() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(distribution.log_prob(value), expected)


def test_corrupted_values_are_not_clipped():
    value = GaussianNoise(1.0)(torch.full((500,), 0.5)).sample()
    assert bool((value < 0).any())
    assert bool((value > 1).any())


def test_pathwise_gradients():
    """x̃ = x + σ ε, so dx̃/dx = 1 and dx̃/dσ = (x̃ − x)/σ."""
    corruption = GaussianNoise(torch.tensor(0.4, dtype=torch.float64), learnable=True, minimum=0.1)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    distribution = corruption(x)
    assert distribution.has_rsample
    value = distribution.rsample()
    scale = corruption.scale()
    (by_x,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    assert torch.equal(by_x, torch.ones_like(x))
    raw = corruption.scale.raw
    (gradient,) = torch.autograd.grad(value.sum(), raw)
    (slope,) = torch.autograd.grad(scale, raw)
    torch.testing.assert_close(gradient, slope * ((value - x) / scale).sum().detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("scale", [0.0, 3.5, 1e3])
def test_scales_have_no_upper_limit(scale):
    assert float(GaussianNoise(scale).scale()) == scale
