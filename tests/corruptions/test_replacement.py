import math

import pytest
import torch
from exact import check_estimates

from pyro_dvae.corruptions import BitFlip, Masking, SaltAndPepper
from pyro_dvae.corruptions.replacement import Replacement
from pyro_dvae.errors import InputError


def double(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "slopes"), [(Masking, {0.0, 1.0}), (SaltAndPepper, {0.0, 1.0}), (BitFlip, {-1.0, 1.0})]
)
def test_gradients_reach_the_data_through_kept_elements(kind, slopes):
    x = torch.rand(400, dtype=torch.float64, requires_grad=True)
    value = kind(0.5)(x).sample()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.equal(gradient == 1, value == x)
    assert set(gradient.tolist()) == slopes


def test_one_uniform_number_per_element():
    torch.manual_seed(3)
    SaltAndPepper(0.3)(torch.rand(7, 2)).sample((4,))
    after = torch.rand(3)
    torch.manual_seed(3)
    torch.rand(7, 2)
    torch.rand(4, 7, 2)
    assert torch.equal(after, torch.rand(3))


def test_a_smaller_rate_changes_a_subset_under_one_seed():
    x = torch.rand(500)
    changed = []
    for rate in (0.1, 0.4):
        torch.manual_seed(3)
        changed.append(Masking(rate)(x).sample() == 0)
    assert bool((changed[1] | ~changed[0]).all())
    assert int(changed[0].sum()) < int(changed[1].sum())


def test_salt_equal_to_the_rate_is_the_reference_codes_corruption():
    """x̃ = mask·x + (1 − mask)·b with mask ~ Bernoulli(1 − c), b ~ Bernoulli(c)."""
    rate, count = 0.3, 40_000
    x = double([0.0, 0.4, 1.0])
    kept = torch.bernoulli(torch.full((count, 3), 1 - rate, dtype=torch.float64))
    reference = kept * x + (1 - kept) * torch.bernoulli(torch.full((count, 3), rate, dtype=torch.float64))
    distribution = SaltAndPepper(double(rate), salt="rate")(x)
    value = distribution.sample((count,))
    for candidate in (0.0, 0.4, 1.0):
        mass = distribution.log_prob(torch.full_like(x, candidate)).exp()
        check_estimates("reference", (reference == candidate).double(), mass)
        check_estimates("ours", (value == candidate).double(), mass)


@pytest.mark.parametrize("salt", [0.0, 0.3, 1.0])
def test_the_salt_share(salt):
    x = torch.full((5000,), 0.5, dtype=torch.float64)
    value = SaltAndPepper(0.4, salt)(x).sample()
    check_estimates("salt", (value == 1).double(), double(0.4 * salt))
    check_estimates("pepper", (value == 0).double(), double(0.4 * (1 - salt)))


def test_a_learned_rate_moves_its_salt_share():
    corruption = SaltAndPepper(double(0.3), salt="rate", learnable=True)
    rate = corruption.rate()
    mass = corruption(double([0.5])).log_prob(double([1.0])).exp()
    (gradient,) = torch.autograd.grad(mass, corruption.rate.raw)
    (slope,) = torch.autograd.grad(rate, corruption.rate.raw)
    assert float(mass.detach()) == pytest.approx(0.09)
    assert float(gradient) == pytest.approx(2 * 0.3 * float(slope))


@pytest.mark.parametrize("salt", ["ratio", 1.2, -0.1, math.nan, True, None, [0.5]])
def test_bad_salt_is_refused(salt):
    with pytest.raises(InputError, match=r"^salt: expected a number in \[0, 1\]( or 'rate')?, got "):
        SaltAndPepper(0.1, salt)


def test_several_atoms_and_tensor_shares():
    x = double([0.1, 0.2, 0.3])
    shares = [double([1.0, 0.5, 0.0]), double([0.0, 0.25, 0.0]), double([0.0, 0.25, 1.0])]
    distribution = Replacement(x, double(0.6), list(zip([7.0, 8.0, 9.0], shares, strict=True)))
    value = distribution.sample((20_000,))
    for atom, share in zip([7.0, 8.0, 9.0], shares, strict=True):
        check_estimates("frequency", (value == atom).double(), 0.6 * share)
        torch.testing.assert_close(distribution.mass(double(atom)), 0.6 * share)
    check_estimates("kept", (value == x).double(), double([0.4, 0.4, 0.4]))


def test_rates_broadcast_again_after_expansion():
    rates = double([0.0, 1.0])
    value = BitFlip(rates)(double([[0.2, 0.2]])).expand(torch.Size((5, 4, 2))).sample()
    assert torch.equal(value, double([0.2, 0.8]).expand(5, 4, 2))


def test_a_float32_level_loses_no_precision_on_float64_data():
    x = double([0.0, 1.0])
    corruption = BitFlip(0.25)
    assert corruption.rate().dtype == torch.float32
    assert corruption(x).log_prob(x).tolist() == pytest.approx([math.log(0.75)] * 2, rel=1e-15)
