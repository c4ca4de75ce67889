import pytest
import torch

import pyro_dvae as dv
from pyro_dvae.corruptions import mean_image_rate


def images(seed=0, dtype=torch.float64):
    """Values in [0, 1]; the first column is never above 0, the last always 1."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.rand(20, 6, 5, generator=generator, dtype=dtype) ** 3
    data[..., 0], data[..., -1] = 0.0, 1.0
    return data


@pytest.mark.parametrize("level", [0.0, 0.01, 0.1, 0.3, 0.6, 0.79, 0.8])
def test_the_average_is_the_level_and_the_rest_is_proportional(level):
    data = images()
    rate = mean_image_rate(data, level)
    mean = data.mean(0)
    assert rate.shape == (6, 5)
    assert float(rate.mean()) == pytest.approx(level, abs=1e-12)
    assert bool(((rate >= 0) & (rate <= 1)).all())
    assert bool((rate[mean == 0] == 0).all())
    below = (rate < 1) & (mean > 0)
    if level and below.any():
        factors = rate[below] / mean[below]
        torch.testing.assert_close(factors, factors[:1].expand_as(factors), rtol=1e-10, atol=0)
        if bool((rate == 1).any()):  # only values that would exceed 1 are clamped
            assert bool((factors[0] * mean[rate == 1] >= 1 - 1e-9).all())


def test_without_any_cut_it_is_the_scaled_mean():
    data = images()
    torch.testing.assert_close(mean_image_rate(data, 0.1), 0.1 * data.mean(0) / data.mean())


def test_ties_and_constant_images():
    torch.testing.assert_close(mean_image_rate(torch.full((3, 4), 0.5), 0.3), torch.full((4,), 0.3))
    torch.testing.assert_close(mean_image_rate(torch.ones(3, 4), 1.0), torch.ones(4))
    half = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(mean_image_rate(half, 0.5), half[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_types(dtype):
    data = (images() > 0.2).to(dtype)
    rate = mean_image_rate(data, 0.2)
    assert rate.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert float(rate.double().mean()) == pytest.approx(0.2, abs=1e-7)


def test_elements_are_replaced_at_their_rates():
    data = images()
    rate = mean_image_rate(data, 0.3).flatten()
    corruption = dv.Masking(rate)
    draws = corruption(torch.ones(20_000, 30, dtype=torch.float64)).sample()
    error = (rate * (1 - rate) / 20_000).sqrt()
    assert bool((((draws == 0).double().mean(0) - rate).abs() <= 5 * error + 1e-12).all())


def test_refusals():
    with pytest.raises(
        dv.InputError, match=r"^level: expected at most 0.8, the share of elements ever above 0, got 0.9$"
    ):
        mean_image_rate(images(), 0.9)
    with pytest.raises(dv.InputError, match=r"^level: expected a number in \[0, 1\], got 1.5$"):
        mean_image_rate(images(), 1.5)
    with pytest.raises(dv.InputError, match=r"^data: expected values of at least 0, got -1$"):
        mean_image_rate(torch.tensor([[0.0, -1.0]]), 0.1)
    with pytest.raises(dv.InputError, match=r"^data: expected a tensor, got list$"):
        mean_image_rate([[0.0, 1.0]], 0.1)
