import math

import pytest
import torch
from arviz_reference import psis_of_arviz

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.importance.arviz_export import import_arviz
from pyro_dvae.evaluation.importance.psis import k_threshold, smooth_tail, smoothed_log_sum, tail_length

INF, NAN = math.inf, math.nan
arviz = import_arviz()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def pareto(k, *shape, seed=0):
    """Logs of generalised Pareto draws of scale 1."""
    u = uniform(*shape, seed=seed)
    return ((u**-k - 1) / k if k else -u.log()).log()


def zeros_among(log_weight, share):
    zero = uniform(*log_weight.shape, seed=9) < share
    zero[:, 0] = False  # of weights that are all zero ArviZ makes NaN
    return torch.where(zero, -INF, log_weight)


# Log weights [data, draws] by name; the last few have draws that ArviZ counts in no tail.
WEIGHTS = {
    "light": lambda *shape: 0.3 * normal(*shape),
    "normal": lambda *shape: 2 * normal(*shape),
    "wide": lambda *shape: 10 * normal(*shape) - 90,
    "bounded": lambda *shape: uniform(*shape).log(),
    "Pareto 0.2": lambda *shape: pareto(0.2, *shape),
    "Pareto 0.9": lambda *shape: pareto(0.9, *shape),
    "Pareto 3": lambda *shape: pareto(3.0, *shape),
    "large": lambda *shape: 1e4 + normal(*shape),
    "some zero": lambda *shape: zeros_among(normal(*shape), 0.3),
    "ties": lambda *shape: (2 * normal(*shape)).round(decimals=1),
    "pairs": lambda *shape: 2 * normal(shape[0], -(-shape[1] // 2)).repeat(1, 2)[:, : shape[1]],
    "four values": lambda *shape: (4 * uniform(*shape)).floor(),
    "alone": lambda *shape: 1e4 * normal(*shape),
    "vanishing": lambda *shape: 500 * normal(*shape),
    "nearly all zero": lambda *shape: zeros_among(normal(*shape), 0.97),
}


def split(log_weight, seed=3):
    """The T+1 largest, in any order, and the log of the sum of the others."""
    kept, place = log_weight.topk(min(tail_length(log_weight.shape[1]) + 1, log_weight.shape[1]), 1)
    rest = log_weight.scatter(1, place, -INF)
    shuffled = torch.randperm(kept.shape[1], generator=generator(seed))
    return kept[:, shuffled], place[:, shuffled], rest.logsumexp(1)


@pytest.mark.parametrize("samples", [5, 25, 100, 224, 400, 1000, 5000])
@pytest.mark.parametrize("name", WEIGHTS)
def test_as_arviz(name, samples):
    if not arviz.__version__.startswith("0."):
        differs = samples in (5, 25, 224, 1000, 5000)
        if differs or name in list(WEIGHTS)[-7:]:
            pytest.skip("ArviZ 1.x has another length of the tail, and refuses some tails")
    log_weight = WEIGHTS[name](20, samples)
    expected, expected_k = psis_of_arviz(log_weight)
    largest, place, rest = split(log_weight)
    tail = smooth_tail(largest)
    # One difference: weights that are all equal have no tail.
    constant = largest.amax(1) == largest.amin(1)
    assert bool((tail.k[constant] == -INF).all())
    torch.testing.assert_close(tail.k[~constant], expected_k[~constant], rtol=1e-9, atol=1e-9)
    smoothed = log_weight.scatter(1, place, tail.log_weights)
    normalised = smoothed - smoothed.logsumexp(1, keepdim=True)
    # Sorted, as the order of ties is arbitrary.
    torch.testing.assert_close(
        normalised.sort(1).values, expected.sort(1).values, rtol=1e-9, atol=1e-8, check_dtype=False
    )
    total, k = smoothed_log_sum(largest, rest)
    torch.testing.assert_close(total, smoothed.logsumexp(1), rtol=1e-12, atol=1e-12)
    assert torch.equal(k, tail.k)


def test_the_cases_are_of_every_kind():
    k = torch.cat([smooth_tail(split(draw(20, 1000))[0]).k for draw in WEIGHTS.values()])
    assert bool((k < 0).any() & ((k > 0) & (k < 0.7)).any() & ((k > 1) & (k < INF)).any())
    assert bool((smooth_tail(split(WEIGHTS["alone"](20, 1000))[0]).k == INF).any())


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_the_shape_and_scale_of_exact_draws(k):
    # All draws exceed the cutoff, a weight of 1, by a Pareto draw of scale 1.
    count, data = 2000, 100
    weights = torch.cat([torch.zeros(data, 1).double(), pareto(k, data, count).exp().log1p()], 1)
    tail = smooth_tail(weights)
    shape = tail.k * (count + 10) / count - 10 * 0.5 / count  # without the prior
    # The likeliest shape has variance (1 + k)² / n, and bias of order 1/n.
    assert abs(float(shape.mean()) - k) < 4 * (1 + k) / math.sqrt(count * data) + 3 / count
    assert float(shape.std()) == pytest.approx((1 + k) / math.sqrt(count), rel=0.3)
    scale = tail.scale * weights.amax(1).exp()
    assert abs(float(scale.log().mean())) < 4 * math.sqrt(2 * (1 + abs(k)) / (count * data)) + 3 / count


def test_smoothing_keeps_the_order_and_the_largest_weight():
    largest = split(WEIGHTS["Pareto 0.9"](50, 1000))[0]
    smoothed = smooth_tail(largest).log_weights
    assert bool((smoothed.gather(1, largest.argsort(1)).diff() >= 0).all())
    assert bool((smoothed <= largest.amax(1, keepdim=True)).all())
    assert torch.equal(smoothed.amin(1), largest.amin(1))


@pytest.mark.parametrize("constant", [-3e4, -700.0, 800.0])
def test_a_constant_added_is_a_constant_added(constant):
    largest, _, rest = split(WEIGHTS["normal"](20, 1000))
    total, k = smoothed_log_sum(largest, rest)
    moved, moved_k = smoothed_log_sum(largest + constant, rest + constant)
    torch.testing.assert_close(moved_k, k, rtol=0, atol=1e-9)
    torch.testing.assert_close(moved - constant, total, rtol=0, atol=1e-9)


def test_a_datum_does_not_depend_on_the_others(monkeypatch):
    largest = torch.cat([split(draw(7, 1000))[0] for draw in WEIGHTS.values()])
    whole = smooth_tail(largest)
    rows = [smooth_tail(row[None]) for row in largest]
    monkeypatch.setattr("pyro_dvae.evaluation.importance.psis._ELEMENTS_AT_ONCE", 30_000)
    chunks = smooth_tail(largest)
    for name in ("k", "scale", "log_weights"):
        expected = getattr(whole, name)
        for found in (torch.cat([getattr(row, name) for row in rows]), getattr(chunks, name)):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "noise", "resolution"), [(torch.float64, 1e-13, 1e-12), (torch.float32, 1e-5, 1e-4)]
)
def test_equal_weights_up_to_rounding_have_no_tail(dtype, noise, resolution):
    largest = (-90 + noise * (uniform(4, 214) - 0.5)).to(dtype)
    total, k = smoothed_log_sum(largest, largest[:, 0] + 8, resolution=resolution)
    assert bool((k == -INF).all())
    torch.testing.assert_close(
        total, torch.full_like(total, -90 + math.log(214 + math.exp(8))), rtol=1e-6, atol=0
    )
    assert total.dtype == k.dtype == torch.float64
    if noise > 1e-12:
        assert bool(smooth_tail(largest).k.isfinite().all())


@pytest.mark.parametrize(("giants", "k"), [(1, INF), (4, INF), (5, None), (0, -INF)])
def test_a_few_giants_are_no_constant(giants, k):
    largest = torch.zeros(1, 96, dtype=torch.float64)
    largest[:, :giants] = 20 + torch.arange(giants)
    tail = smooth_tail(largest)
    if k is None:
        assert math.isfinite(tail.k)
    else:
        assert float(tail.k) == k
        assert torch.equal(tail.log_weights, largest)


def test_a_tail_that_spans_all_of_float64():
    log_weight = torch.full((1, 25), -5000.0, dtype=torch.float64)
    log_weight[0, :5] = torch.tensor([0.0, -100.0, -300.0, -600.0, -708.39])
    assert float(smooth_tail(split(log_weight)[0]).k) > 10
    if arviz.__version__.startswith("0."):
        assert float(psis_of_arviz(log_weight)[1]) == pytest.approx(1 / 3)  # as if reliable


def test_ties_up_to_rounding_shorten_the_tail_as_exact_ones_do():
    exact = torch.cat([torch.zeros(1, 60).double(), normal(1, 36).abs() + 0.1], 1)
    rounded = exact + 1e-13 * uniform(1, 96)
    torch.testing.assert_close(smooth_tail(rounded).k, smooth_tail(exact).k, rtol=1e-9, atol=0)
    # Without the rounding, the fit sees a quartile near 0.
    assert float(smooth_tail(rounded, resolution=1e-15).k) > 1


def test_weights_of_zero():
    all_zero = torch.full((1, 96), -INF).double()
    one, five = all_zero.clone(), all_zero.clone()
    one[:, 3], five[:, 3:8] = -50.0, torch.arange(5.0).double()
    largest = torch.cat([all_zero, one, five, normal(1, 96)])
    total, k = smoothed_log_sum(largest, torch.full((4,), -INF))
    assert k[:2].tolist() == [INF, INF]
    assert bool(k[2:].isfinite().all())
    assert total[:2].tolist() == [-INF, -50.0]
    assert bool(total[2:].isfinite().all())
    rest = torch.tensor([-5.0, -INF, -INF, -INF])
    assert float(smoothed_log_sum(largest, rest)[0][0]) == -5.0


@pytest.mark.parametrize("samples", [1, 2, 3, 20, 21])
def test_few_draws(samples):
    largest, _, rest = split(normal(3, samples))
    total, k = smoothed_log_sum(largest, rest)
    if samples <= 20:
        assert k.tolist() == [INF] * 3
        torch.testing.assert_close(total, normal(3, samples).logsumexp(1))
    else:
        assert bool(k.isfinite().all())


def test_no_data():
    tail = smooth_tail(torch.zeros(0, 96))
    assert tail.k.shape == (0,)
    assert tail.log_weights.shape == (0, 96)


def test_the_weights_given_stay_and_nothing_is_differentiated():
    largest = normal(3, 96).requires_grad_()
    before = largest.detach().clone()
    tail = smooth_tail(largest)
    assert torch.equal(largest.detach(), before)
    assert not tail.log_weights.requires_grad


def test_lengths_and_thresholds():
    assert [tail_length(s) for s in (1, 5, 24, 25, 100, 225, 226, 1000, 5000)] == [
        *(1, 1, 5, 5, 20, 45, 46, 95, 213)
    ]
    assert k_threshold(1) == -INF
    assert k_threshold(10) == 0
    assert k_threshold(100) == 0.5
    assert k_threshold(2154) < 0.7 == k_threshold(2155) == k_threshold(10**6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.tensor([[0.0, 1.0], [NAN, 0.0], [0.0, NAN]]),), {}, r"^largest: .* NaN or inf at row 1$"),
        ((torch.tensor([[0.0, INF]]),), {}, r"^largest: expected log weights below inf"),
        ((torch.zeros(3),), {}, r"^largest: expected shape \[data, draws\], got \(3,\)"),
        ((torch.zeros(3, 0),), {}, r"^largest: "),
        ((torch.zeros(3, 2, dtype=torch.long),), {}, r"^largest: expected floating-point"),
        (([[0.0]],), {}, r"^largest: expected a tensor"),
        ((torch.zeros(3, 2),), {"resolution": 0.0}, r"^resolution: "),
        ((torch.zeros(3, 2), torch.tensor([0.0, NAN, NAN])), {}, r"^log_rest: .* row 1$"),
        ((torch.zeros(3, 2), torch.zeros(2)), {}, r"^log_rest: expected 3 values"),
        ((torch.zeros(3, 2), torch.zeros(3, 1)), {}, r"^log_rest: expected shape \[data\]"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(InputError, match=message):
        (smooth_tail if len(arguments) == 1 else smoothed_log_sum)(*arguments, **options)


@pytest.mark.parametrize("function", [tail_length, k_threshold])
@pytest.mark.parametrize("samples", [0, 2.5, True])
def test_bad_counts(function, samples):
    with pytest.raises(InputError, match=r"^num_samples: "):
        function(samples)
