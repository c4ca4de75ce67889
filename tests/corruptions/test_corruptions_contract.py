"""The contract of every exported corruption; an export without an entry in CASES fails."""

import copy
import functools
import inspect
import itertools
import math

import pyro
import pytest
import torch
from exact import check_estimates
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_dvae import corruptions
from pyro_dvae.corruptions import LinearSchedule
from pyro_dvae.corruptions.network import FAMILIES
from pyro_dvae.errors import InputError
from pyro_dvae.levels import Level

RATE, SALT = 0.3, 0.25


def keep(x):
    return x


def zero(x):
    return torch.zeros_like(x)


def one(x):
    return torch.ones_like(x)


def flip(x):
    return 1 - x


class Constant(nn.Module):
    """A network whose levels are ``level`` for any data."""

    def __init__(self, level, maximum):
        super().__init__()
        level = torch.as_tensor(level)
        self.raw = nn.Parameter(torch.logit(level) if maximum == 1 else torch.log(torch.expm1(level)))

    def forward(self, x):
        return self.raw.to(x.dtype).expand(x.shape)


ROWS = torch.tensor([[0.0], [1.0]])  # of any number of columns


def by_network(family):
    maximum = math.inf if family in ("gaussian", "multiplicative") else 1
    options = {"rows": ROWS} if family == "swap" else {}
    return lambda level: corruptions.NetworkCorruption(Constant(level, maximum), family, **options)


# Per class, builders of a corruption from its level, and the atoms of its distribution at RATE with their
# shares; None where it is continuous. Every table of masses here is written by hand.
KEPT = (keep, 1 - RATE)
CASES = {
    "NoCorruption": [(lambda level, **options: corruptions.NoCorruption(), [(keep, 1.0)])],
    "BitFlip": [(corruptions.BitFlip, [KEPT, (flip, RATE)])],
    "Masking": [(corruptions.Masking, [KEPT, (zero, RATE)])],
    "SaltAndPepper": [
        (corruptions.SaltAndPepper, [KEPT, (one, RATE / 2), (zero, RATE / 2)]),
        (
            lambda level, **options: corruptions.SaltAndPepper(level, SALT, **options),
            [KEPT, (one, RATE * SALT), (zero, RATE * (1 - SALT))],
        ),
        (
            lambda level, **options: corruptions.SaltAndPepper(level, salt="rate", **options),
            [KEPT, (one, RATE**2), (zero, RATE * (1 - RATE))],
        ),
    ],
    "SwapNoise": [
        (functools.partial(corruptions.SwapNoise, rows=ROWS), [KEPT, (zero, RATE / 2), (one, RATE / 2)])
    ],
    "BinomialThinning": [(corruptions.BinomialThinning, [KEPT, (zero, RATE)])],
    "GaussianNoise": [(corruptions.GaussianNoise, None)],
    "MultiplicativeNoise": [(corruptions.MultiplicativeNoise, None)],
}
CASES["NetworkCorruption"] = [
    (by_network(family), CASES[kind.__name__][0][1]) for family, kind in FAMILIES.items()
]
EXPORTED = {
    name: member
    for name in corruptions.__all__
    if isinstance(member := getattr(corruptions, name), type)
    and issubclass(member, corruptions.Corruption)
    and member is not corruptions.Corruption
}
EVERY = [
    pytest.param(build, atoms, id=f"{name}-{index}")
    for name in EXPORTED
    for index, (build, atoms) in enumerate(CASES.get(name, []))
]
DISCRETE = [case for case in EVERY if case.values[1] is not None]
LEVELLED = [case for case in EVERY if case.values[0](RATE).levels()]
RATED = [case for case in DISCRETE if case in LEVELLED]
# The relaxed form of every corruption that has one; it has no probabilities, the rest is the same.
TEMPERATURE = 0.5
RELAXED = [
    pytest.param(functools.partial(member, temperature=TEMPERATURE), (), id=f"relaxed-{name}")
    for name, member in EXPORTED.items()
    if "temperature" in inspect.signature(member).parameters
]
BINARY = torch.tensor([0.0, 1.0], dtype=torch.float64)
GREY = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)

every = pytest.mark.parametrize(("build", "atoms"), EVERY)
levelled = pytest.mark.parametrize(("build", "atoms"), LEVELLED + RELAXED)
scored = pytest.mark.parametrize(("build", "atoms"), LEVELLED)
relaxed = pytest.mark.parametrize(("build", "atoms"), RELAXED)
discrete = pytest.mark.parametrize(("build", "atoms"), DISCRETE)
rated = pytest.mark.parametrize(("build", "atoms"), RATED)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def level_of(corruption):
    (level,) = corruption.levels()
    return level


def masses(atoms, x, value):
    return sum(share * (value == atom(x)).to(x.dtype) for atom, share in atoms)


def test_every_export_has_an_entry():
    assert set(CASES) == set(EXPORTED)


def test_every_corruption_with_a_level_is_a_family():
    levelled_names = {case.id.rpartition("-")[0] for case in LEVELLED}
    assert {kind.__name__ for kind in FAMILIES.values()} == levelled_names


@every
@pytest.mark.parametrize("leading", [(), (4,), (2, 1, 4)])
def test_shapes_and_to_event(build, atoms, leading):
    x = torch.rand(*leading, 3, dtype=torch.float64)
    distribution = build(RATE)(x)
    assert isinstance(distribution, TorchDistributionMixin)
    assert (distribution.batch_shape, distribution.event_shape) == (x.shape, ())
    assert distribution.sample().shape == x.shape
    assert distribution.sample((5,)).shape == (5, *x.shape)
    joint = distribution.to_event(1)
    assert (joint.batch_shape, joint.event_shape) == (leading, (3,))
    value = joint.sample((5,))
    torch.testing.assert_close(joint.log_prob(value), distribution.log_prob(value).sum(-1))
    assert distribution.to_event(0).sample().shape == x.shape


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_element", [False, True])
def test_the_dtype_of_the_data_is_kept(build, atoms, dtype, level_dtype, per_element):
    x = torch.rand(4, 3, dtype=dtype)
    level = torch.full((3,) if per_element else (), RATE, dtype=level_dtype)
    distribution = build(level)(x)
    value = distribution.sample()
    assert value.dtype == dtype
    assert distribution.log_prob(value).dtype == dtype


@discrete
def test_frequencies_equal_the_masses(build, atoms):
    count = 20_000
    value = build(double(RATE))(GREY).sample((count,))
    for candidate in (GREY, torch.zeros_like(GREY), torch.ones_like(GREY), 1 - GREY):
        check_estimates("frequency", (value == candidate).double(), masses(atoms, GREY, candidate))


@discrete
def test_binary_frequencies_equal_the_masses(build, atoms):
    value = build(double(RATE))(BINARY).sample((20_000,))
    for candidate in BINARY:
        check_estimates("frequency", (value == candidate).double(), masses(atoms, BINARY, candidate))


@discrete
@pytest.mark.parametrize("x", [BINARY, GREY], ids=["binary", "grey"])
def test_log_prob_is_the_log_mass_and_normalises(build, atoms, x):
    distribution = build(double(RATE))(x)
    for index, element in enumerate(x):
        values = {float(element), 0.0, 1.0, float(1 - element)}
        total = 0.0
        for value in values:
            full = torch.full_like(x, value)
            log_prob = distribution.log_prob(full)[index].detach()
            expected = masses(atoms, x, full)[index]
            torch.testing.assert_close(log_prob.exp(), double(float(expected)), rtol=1e-12, atol=1e-15)
            total += float(log_prob.exp())
        assert total == pytest.approx(1.0, abs=1e-12)
    assert bool((distribution.log_prob(x + 0.05) == -math.inf).all())


@discrete
def test_only_the_allowed_values_are_drawn(build, atoms):
    value = build(double(RATE))(GREY).sample((2000,))
    allowed = torch.stack([atom(GREY) for atom, _ in atoms])
    assert bool((value.unsqueeze(1) == allowed).any(1).all())
    assert bool(build(double(RATE))(GREY).log_prob(value).isfinite().all())


@scored
def test_copies_of_an_expanded_distribution_are_independent(build, atoms):
    x = torch.full((50,), 0.4, dtype=torch.float64)
    distribution = build(double(RATE))(x).expand(torch.Size((400, 50)))
    assert distribution.batch_shape == (400, 50)
    deviation = distribution.sample()
    deviation = deviation - deviation.mean()
    products = (deviation[::2] * deviation[1::2]).reshape(-1)
    check_estimates("covariance of two copies", products, double(0.0))
    assert float(deviation.var()) > 0.005
    torch.testing.assert_close(distribution.log_prob(x), build(double(RATE))(x).log_prob(x).expand(400, 50))


def test_expanded_events_are_independent_too():
    x = torch.full((2, 50), 0.4)
    value = corruptions.BitFlip(0.5)(x).to_event(1).expand(torch.Size((3, 2))).sample()
    assert value.shape == (3, 2, 50)
    rows = value.reshape(6, 50)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(rows, 2))


@levelled
def test_level_zero_changes_nothing(build, atoms):
    x = torch.rand(500, dtype=torch.float64)
    assert torch.equal(build(0.0)(x).sample(), x)


@rated
def test_rate_one_keeps_nothing(build, atoms):
    x = torch.rand(500, dtype=torch.float64)
    distribution = build(1)(x)
    value = distribution.sample((20,))
    assert not bool((value == x).any())
    assert bool((distribution.log_prob(x) == -math.inf).all())
    assert bool(distribution.log_prob(value).isfinite().all())


@rated
def test_rates_per_element(build, atoms):
    rates = double([[0.0, 0.1, 0.5, 1.0]])
    x = torch.full((3, 4), 0.4, dtype=torch.float64)
    changed = (build(rates)(x).sample((4000,)) != x).double()
    check_estimates("changed", changed, rates.expand(3, 4))


@levelled
@pytest.mark.parametrize("learnable", [False, True])
def test_levels_that_do_not_broadcast_are_refused(build, atoms, learnable):
    corruption = build(double([0.1, 0.2, 0.3]), learnable=learnable)
    argument = level_of(corruption).argument
    for x in (torch.rand(3, 2), torch.rand(2, 1), torch.tensor(0.5)):
        with pytest.raises(
            InputError, match=rf"^{argument}: shape \(3,\) does not broadcast to data of shape"
        ):
            corruption(x)
    assert corruption(torch.rand(2, 3)).batch_shape == (2, 3)


def test_a_level_never_enlarges_the_data():
    with pytest.raises(
        InputError, match=r"rate: shape \(4, 3\) does not broadcast to data of shape \(1, 3\)"
    ):
        corruptions.BitFlip(torch.full((4, 3), 0.1))(torch.rand(1, 3))


@scored
def test_state_dict_round_trip(build, atoms, tmp_path):
    x = torch.rand(6, 3)
    for options in ({}, {"learnable": True}):
        corruption, other = build(torch.full((3,), 0.4), **options), build(torch.full((3,), 0.1), **options)
        torch.save(corruption.state_dict(), tmp_path / "corruption.pt")
        other.load_state_dict(torch.load(tmp_path / "corruption.pt", weights_only=True))
        assert torch.equal(level_of(other)(), level_of(corruption)())
        value = corruption(x).sample()
        assert torch.equal(other(x).log_prob(value), corruption(x).log_prob(value))


@levelled
@pytest.mark.parametrize("learnable", [False, True])
def test_to_another_dtype(build, atoms, learnable):
    corruption = build(RATE, learnable=learnable).to(torch.float64)
    assert level_of(corruption)().dtype == torch.float64
    assert {value.dtype for value in corruption.state_dict().values()} == {torch.float64}


@scored
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_the_accelerator(build, atoms):
    for options in ({}, {"learnable": True}):
        corruption = build(torch.full((3,), RATE), **options).cuda()
        distribution = corruption(torch.rand(5, 3, device="cuda"))
        assert distribution.log_prob(distribution.sample()).device.type == "cuda"


@levelled
def test_copies_do_not_share_their_level(build, atoms):
    corruption = build(LinearSchedule(0.5, 0.0, 10))
    other = copy.deepcopy(corruption)
    other.set_epoch(10)
    assert float(level_of(corruption)()) == 0.5
    assert float(level_of(other)()) == 0.0


@scored
def test_a_schedule_moves_the_level_in_place_and_draws_follow(build, atoms):
    corruption = build(LinearSchedule(0.8, 0.2, 6))
    level = level_of(corruption)
    address = level().data_ptr()
    x = torch.full((4000,), 0.4, dtype=torch.float64)

    def deviations():
        value = corruption(x).sample()
        if atoms is None:
            return ((value - x) / build(1.0)(x).stddev).square()
        return (value != x).double()

    for epoch, expected in ((0, 0.8), (3, 0.5), (6, 0.2), (100, 0.2), (1.5, 0.65)):
        corruption.set_epoch(epoch)
        assert float(level()) == pytest.approx(expected)
        assert level().data_ptr() == address
        check_estimates("deviation", deviations(), double(expected**2 if atoms is None else expected))


@levelled
def test_only_scheduled_levels_follow_the_epoch(build, atoms):
    for options in ({}, {"learnable": True}):
        corruption = build(RATE, **options)
        before = level_of(corruption)().clone()
        corruption.set_epoch(50)
        assert torch.equal(level_of(corruption)(), before)


@levelled
def test_a_fixed_level_is_a_copy_of_the_tensor_it_was_given(build, atoms):
    given = torch.full((3,), RATE)
    corruption = build(given)
    given.fill_(0.9)
    assert bool((level_of(corruption)() == torch.full((3,), RATE)).all())


@levelled
def test_an_integer_tensor_is_a_legal_level(build, atoms):
    level = level_of(build(torch.tensor([0, 1])))()
    assert level.dtype == torch.get_default_dtype()
    assert level.tolist() == [0.0, 1.0]


@levelled
@pytest.mark.parametrize("start", [0.021, 0.3, 0.97])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_learned_level_starts_at_the_given_value(build, atoms, start, shape):
    start = torch.full(shape, start, dtype=torch.float64)
    for minimum in (0.0, 0.02):
        corruption = build(start, learnable=True, minimum=minimum)
        torch.testing.assert_close(level_of(corruption)(), start, rtol=1e-13, atol=0)
        assert [name.rpartition(".")[2] for name, _ in corruption.named_parameters()] == ["raw"]


@levelled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_learned_level_respects_its_limits(build, atoms, dtype):
    minimum = 0.2
    level = level_of(build(torch.tensor(0.6, dtype=dtype), learnable=True, minimum=minimum))
    found = []
    for raw in (-1e4, -30.0, -3.0, 0.0, 3.0, 30.0, 1e4):
        with torch.no_grad():
            level.raw.fill_(raw)
        found.append(float(level().detach()))
        assert minimum - 1e-7 <= found[-1] <= level.maximum
    assert found == sorted(found)
    assert found[0] == pytest.approx(minimum)
    assert found[-1] == pytest.approx(min(level.maximum, minimum + 1e4))


@scored
def test_gradients_of_a_learned_level(build, atoms):
    corruption = build(double(RATE), learnable=True, minimum=0.1)
    raw = level_of(corruption).raw
    x = GREY.clone()
    distribution = corruption(x)
    value = distribution.sample((50,))
    (gradient,) = torch.autograd.grad(distribution.log_prob(value.detach()).sum(), raw)
    with torch.no_grad():
        step = 1e-6
        sides = []
        for sign in (1, -1):
            raw.add_(sign * step)
            sides.append(float(corruption(x).log_prob(value).sum()))
            raw.sub_(sign * step)
    assert float(gradient) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6)
    assert float(gradient) != 0.0


@relaxed
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relaxed_draws(build, atoms, dtype):
    x = torch.rand(2, 4, 3, dtype=dtype)
    distribution = build(double([0.2, 0.5, 0.9]), learnable=True)(x).to_event(1)
    assert distribution.has_rsample
    assert (distribution.batch_shape, distribution.event_shape) == ((2, 4), (3,))
    value = distribution.expand(torch.Size((5, 2, 4))).rsample((6,))
    assert (value.shape, value.dtype) == ((6, 5, 2, 4, 3), dtype)
    assert value.requires_grad
    assert not distribution.sample().requires_grad
    assert len(value.unique(dim=0)) == 6
    assert bool(distribution.support.check(value).all())
    with pytest.raises(NotImplementedError, match=r"never scored.*unrelaxed"):
        distribution.log_prob(value)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_data_must_be_finite_while_pyro_validates(build, atoms, bad):
    x = torch.rand(2, 3)
    x[1, 2] = bad
    with pytest.raises(InputError, match=r"^x: expected finite values, got 1 NaN or infinite of 6"):
        build(RATE)(x)
    with pytest.raises(InputError, match=r"^x: expected at least one element, got shape \(0, 3\)"):
        build(RATE)(torch.rand(0, 3))
    pyro.enable_validation(False)
    assert build(RATE)(x).sample().shape == x.shape


@every
@pytest.mark.parametrize("validate", [False, True])
def test_data_must_be_a_floating_point_tensor(build, atoms, validate):
    pyro.enable_validation(validate)
    with pytest.raises(InputError, match=r"^x: expected floating-point values, got torch.int64"):
        build(RATE)(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(InputError, match=r"^x: expected a tensor, got list"):
        build(RATE)([0.0, 1.0])


BAD_NUMBERS = [-0.1, math.nan, math.inf, "a", True, None, [0.1], torch.tensor(math.nan)]


@levelled
@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=str)
@pytest.mark.parametrize("learnable", [False, True])
def test_bad_levels_are_refused(build, atoms, bad, learnable):
    argument = level_of(build(RATE)).argument
    with pytest.raises(InputError, match=rf"^{argument}: expected .*, got "):
        build(bad, learnable=learnable)


@rated
def test_rates_above_one_are_refused(build, atoms):
    with pytest.raises(InputError, match=r"^rate: expected a number in \[0, 1\], got 1.5"):
        build(1.5)
    with pytest.raises(InputError, match=r"^rate: expected values in \[0, 1\], got the range \[0.1, 1.5\]"):
        build(torch.tensor([0.1, 1.5]))


@levelled
def test_bad_tensors_are_refused(build, atoms):
    argument = level_of(build(RATE)).argument
    for tensor, message in (
        (torch.tensor([0.1, math.nan, math.nan]), "expected finite values, got 2 NaN or infinite of 3"),
        (torch.tensor([0.1, -0.5]), r"expected values in \[0, (1|inf)\], got the range \[-0.5, 0.1\]"),
        (torch.rand(0), r"expected at least one element, got shape \(0,\)"),
    ):
        with pytest.raises(InputError, match=f"^{argument}: {message}"):
            build(tensor)


@levelled
@pytest.mark.parametrize(
    ("start", "minimum"), [(0.2, 0.2), (0.0, 0.0), (0.1, 0.2), (torch.tensor([0.5, 0.2]), 0.2)]
)
def test_a_learned_level_must_start_inside_its_limits(build, atoms, start, minimum):
    with pytest.raises(InputError, match=r"a learned level must start inside \(0.*, .*\), got the range \["):
        build(start, learnable=True, minimum=minimum)


@rated
def test_a_learned_rate_must_start_below_one(build, atoms):
    with pytest.raises(
        InputError, match=r"^rate: a learned level must start inside \(0, 1\), got the range \[1, 1\]"
    ):
        build(1.0, learnable=True)


@levelled
@pytest.mark.parametrize("minimum", [-0.1, math.nan, "a"])
def test_bad_minimum_is_refused(build, atoms, minimum):
    with pytest.raises(InputError, match=r"^minimum: expected a number in \[0, (1|inf)\], got "):
        build(RATE, learnable=True, minimum=minimum)


@levelled
def test_a_level_is_not_scheduled_and_learned(build, atoms):
    argument = level_of(build(RATE)).argument
    with pytest.raises(InputError, match=f"^{argument}: a level cannot be both scheduled and learned"):
        build(LinearSchedule(0.5, 0.1, 10), learnable=True)


@levelled
def test_scheduled_levels_are_range_checked(build, atoms):
    argument = level_of(build(RATE)).argument
    with pytest.raises(InputError, match=rf"^{argument}: expected a number in \[0, (1|inf)\], got -0.1"):
        build(LinearSchedule(0.5, -0.1, 10))


def test_levels_lists_nested_corruptions_too():
    class Both(corruptions.Corruption):
        def __init__(self):
            super().__init__()
            self.noise = corruptions.GaussianNoise(LinearSchedule(1.0, 0.0, 2))
            self.mask = corruptions.Masking(0.5)

        def distribution(self, x):
            return self.noise.distribution(self.mask(x).sample())

    corruption = Both()
    assert [level.argument for level in corruption.levels()] == ["scale", "rate"]
    assert all(isinstance(level, Level) for level in corruption.levels())
    corruption.set_epoch(1)
    assert float(corruption.noise.scale()) == 0.5
