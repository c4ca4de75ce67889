"""Thinned counts, noise in proportion, and swapped cells, beyond the contract."""

import math

import pytest
import torch
from exact import check_estimates
from scipy import stats

from pyro_dvae.corruptions import BinomialThinning, MultiplicativeNoise, SwapNoise
from pyro_dvae.errors import InputError


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_thinned_counts_are_binomial(rate):
    x, counts = real(0, 1, 7, 240), torch.arange(241, dtype=torch.float64)
    fn = BinomialThinning(real(rate)[0])(x)
    expected = stats.binom.logpmf(counts[:, None].numpy(), x.numpy(), 1 - rate)
    found = fn.log_prob(counts[:, None].expand(-1, 4))
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(4, dtype=torch.float64))
    draws = fn.sample((20_000,))
    check_estimates("mean", draws, (1 - rate) * x)
    check_estimates("variance", (draws - (1 - rate) * x) ** 2, rate * (1 - rate) * x)


def test_a_part_of_a_unit_is_kept_or_lost_as_a_whole():
    fn = BinomialThinning(real(0.3)[0])(real(2.25))
    values = real(0, 0.25, 1, 1.25, 2, 2.25)[:, None]
    binomial = real(0.09, 0.09, 0.42, 0.42, 0.49, 0.49)
    expected = binomial * real(0.3, 0.7, 0.3, 0.7, 0.3, 0.7)
    torch.testing.assert_close(fn.log_prob(values).exp()[:, 0], expected)
    assert fn.log_prob(real(2.2)).item() == -math.inf
    draws = fn.sample((20_000,))
    for value, mass in zip(values, expected, strict=True):
        check_estimates("frequency", (draws == value).double(), mass[None])


def test_the_gradient_of_a_learned_thinning():
    """d/dr [k log(1 − r) + (n − k) log r]."""
    rate = real(0.3)[0].requires_grad_()
    n, k = real(9.0), real(4.0)
    (found,) = torch.autograd.grad(BinomialThinning(rate)(n).log_prob(k).sum(), [rate])
    assert float(found) == pytest.approx(-4 / 0.7 + 5 / 0.3)


def test_noise_in_proportion():
    x = real(-2.0, 0.0, 1e-3, 1e4)
    fn = MultiplicativeNoise(real(0.2)[0])(x)
    draws = fn.sample((20_000,))
    assert draws[:, 1].abs().max() < 1e-10
    relative = (draws / x)[:, [0, 2, 3]]
    check_estimates("mean", relative, torch.ones(3, dtype=torch.float64))
    check_estimates("variance", (relative - 1) ** 2, torch.full((3,), 0.04, dtype=torch.float64))


def test_swapped_cells_follow_their_column():
    rows = real([0, 5], [1, 5], [1, 7], [2, 9])
    fn = SwapNoise(real(0.4)[0], rows)(real([1.0, 8.0], [3.0, 5.0]).expand(3, 2, 2))
    draws = fn.sample((5000,)).flatten(0, 1)
    expected = {
        (0, 0): {0: 0.1, 1: 0.8, 2: 0.1},
        (0, 1): {5: 0.2, 7: 0.1, 8: 0.6, 9: 0.1},
        (1, 0): {0: 0.1, 1: 0.2, 2: 0.1, 3: 0.6},
        (1, 1): {5: 0.8, 7: 0.1, 9: 0.1},
    }
    for (row, column), masses in expected.items():
        assert sum(masses.values()) == pytest.approx(1.0)
        for value, mass in masses.items():
            check_estimates("frequency", (draws[:, row, column] == value).double(), real(mass)[0])
            found = fn.log_prob(torch.full((3, 2, 2), float(value), dtype=torch.float64)).exp()
            assert found[0, row, column].item() == pytest.approx(mass)


def test_columns_are_swapped_independently():
    """Two columns that always agree no longer do after swapping."""
    rows = torch.arange(10.0)[:, None].expand(10, 2)
    draws = SwapNoise(1.0, rows)(torch.zeros(1000, 2)).sample()
    assert 0.8 < (draws[:, 0] != draws[:, 1]).double().mean() < 1.0


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"^rows: expected rows of shape \(3,\) as in x, got \(2,\)"):
        SwapNoise(0.1, torch.ones(4, 2))(torch.ones(5, 3))
    with pytest.raises(InputError, match=r"^rows: expected shape \[rows, columns\], got \(4,\)"):
        SwapNoise(0.1, torch.ones(4))
    with pytest.raises(InputError, match=r"^rows: expected finite values"):
        SwapNoise(0.1, torch.full((4, 2), math.nan))
