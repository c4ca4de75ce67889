"""Noise by a hash: its distribution, its independence, and its use in graphs."""

import math

import pytest
import torch
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dvae.engine import compile_graph, record
from pyro_dvae.engine.hashed_noise import (
    draw_keys,
    hash_noise,
    hashed_bits,
    normal,
    remaining_draws,
    threefry,
    threefry_bits,
    uniform,
)

N = 200_000
ENOUGH = 1e-5  # p-value below which a fixed seed is taken for a failure


def key(seed=0):
    return draw_keys(1, "cpu", torch.Generator().manual_seed(seed))[0]


@pytest.mark.parametrize("bits", [hashed_bits, threefry_bits])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniforms_are_uniform(dtype, bits):
    value = uniform((bits, key()), (N,), dtype)
    assert value.dtype == dtype
    assert float(value.min()) >= 0
    assert float(value.max()) < 1
    assert stats.kstest(value.double().numpy(), "uniform").pvalue > ENOUGH
    steps = 2**24 if dtype == torch.float32 else 2**53
    assert torch.equal((value.double() * steps).round() / steps, value.double())


def as_int32(*words):
    return torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32)


@pytest.mark.parametrize(
    ("keys", "counters", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_equals_that_of_its_authors(keys, counters, expected):
    first, second = as_int32(*counters)
    assert torch.equal(torch.stack(threefry(as_int32(*keys), first, second)), as_int32(*expected))


def test_every_bit_is_fair_and_no_pair_of_bits_agrees():
    bits = hashed_bits(key(), torch.arange(N, dtype=torch.int32))
    ones = torch.stack([(bits >> place) & 1 for place in range(32)]).double()
    assert float((ones.mean(1) - 0.5).abs().max()) < 5 * 0.5 / math.sqrt(N)
    signs = 2 * ones - 1
    together = (signs @ signs.T / N).fill_diagonal_(0)
    assert float(together.abs().max()) < 5.5 / math.sqrt(N)


def test_one_bit_of_counter_or_key_changes_half_of_the_bits():
    counters = torch.arange(4000, dtype=torch.int32)
    base = hashed_bits(key(), counters)
    flips = [hashed_bits(key(), counters ^ (1 << place)) for place in range(20)]
    for word in range(2):
        for place in range(31):
            other = key().clone()
            other[word] ^= 1 << place
            flips.append(hashed_bits(other, counters))
    for changed in flips:
        differing = torch.stack([((base ^ changed) >> place) & 1 for place in range(32)]).double().mean(1)
        # A flip pairs the counters off, so only half of the differences are independent.
        assert float((differing - 0.5).abs().max()) < 5.5 * 0.5 / math.sqrt(len(counters) / 2)


@pytest.mark.parametrize("lag", [1, 2, 28, 784])
def test_neighbours_are_independent(lag):
    value = uniform((hashed_bits, key()), (N,), torch.float32)
    assert abs(stats.pearsonr(value[:-lag], value[lag:]).statistic) < 5 / math.sqrt(N)
    grid = torch.histogramdd(
        torch.stack([value[:-lag], value[lag:]], 1).double(), bins=[16, 16], range=[0.0, 1.0, 0.0, 1.0]
    ).hist
    assert stats.chisquare(grid.reshape(-1).numpy()).pvalue > ENOUGH


def test_keys_in_a_row_give_independent_draws():
    drawn = draw_keys(300, "cpu", torch.Generator().manual_seed(3))
    values = torch.stack([uniform((hashed_bits, each), (784,), torch.float32) for each in drawn])
    # Each position over the keys, as a corruption sees it over steps.
    for position in range(0, 784, 97):
        assert stats.kstest(values[:, position].numpy(), "uniform").pvalue > ENOUGH
    centred = (values - 0.5).double()
    correlation = (centred @ centred.T / (784 / 12)).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 6 / math.sqrt(784)
    first, second = values[:-1].reshape(-1), values[1:].reshape(-1)
    assert abs(stats.pearsonr(first, second).statistic) < 5 / math.sqrt(first.numel())


def test_keys_that_differ_in_one_word_only():
    plain = torch.tensor([[0, n] for n in range(200)] + [[n, 0] for n in range(200)], dtype=torch.int32)
    values = (
        torch.stack([uniform((hashed_bits, each), (500,), torch.float32) for each in plain]).double() - 0.5
    )
    del plain
    correlation = values @ values.T / (500 / 12)
    correlation[200, 0] = correlation[0, 200] = 0  # the same key
    assert float(correlation.fill_diagonal_(0).abs().max()) < 6.5 / math.sqrt(500)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal(dtype):
    value = normal((hashed_bits, key()), (N,), dtype).double()
    assert stats.kstest(value.numpy(), "norm").pvalue > ENOUGH
    assert float(value.mean()) == pytest.approx(0, abs=5 / math.sqrt(N))
    assert float(value.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / N))
    assert float((value**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / N))
    beyond = int((value.abs() > 3).sum())
    assert beyond == pytest.approx(N * 2 * stats.norm.sf(3), abs=5 * math.sqrt(N * 0.0027))
    assert bool(torch.isfinite(value).all())


def graph_of(function, *example):
    graph = make_fx(function)(*example)
    return graph, hash_noise(graph)


DRAWS = {
    "rand": lambda x: torch.rand(x.shape, dtype=x.dtype),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(x.shape, dtype=x.dtype),
    "randn_like": torch.randn_like,
    "filled normal": lambda x: torch.empty_like(x).normal_(1.0, 2.0),
    "filled uniform": lambda x: torch.empty_like(x).uniform_(-1.0, 3.0),
    "filled bernoulli": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "filled bernoulli of a tensor": lambda x: torch.empty_like(x).bernoulli_(x.clamp(0, 1)),
    "bernoulli": lambda x: torch.bernoulli(x.clamp(0, 1)),
    "bernoulli of a number": lambda x: torch.bernoulli(x, 0.7),
    "normal of tensors": lambda x: torch.normal(x, 1 + x.abs()),
    "normal of a tensor": lambda x: torch.normal(x, 2.0),
    "normal of a number": lambda x: torch.normal(3.0, 1 + x.abs()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_draw_keeps_its_distribution(draw, dtype):
    x = torch.linspace(-0.2, 1.2, 5, dtype=dtype)[:, None].expand(5, 40_000).contiguous()
    graph, count = graph_of(draw, x)
    assert count == 1
    assert not remaining_draws(graph)
    hashed = graph(x, draw_keys(1, "cpu", torch.Generator().manual_seed(1)))
    torch.manual_seed(0)
    plain = draw(x)
    assert hashed.dtype == plain.dtype
    assert hashed.shape == plain.shape
    for ours, theirs in zip(hashed.double(), plain.double(), strict=True):
        spread = 5 * math.sqrt(2 / x.shape[1])
        assert float(ours.mean()) == pytest.approx(
            float(theirs.mean()), abs=spread * float(theirs.std()) + 1e-12
        )
        assert float(ours.std()) == pytest.approx(
            float(theirs.std()), abs=spread * float(theirs.std()) + 1e-12
        )
        if len(theirs.unique()) > 2:
            assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > ENOUGH
        else:
            assert set(ours.unique().tolist()) <= set(theirs.unique().tolist())


def test_a_certain_bernoulli_is_certain():
    graph, _ = graph_of(torch.bernoulli, torch.tensor([0.0, 1.0]).repeat(1000))
    drawn = graph(torch.tensor([0.0, 1.0]).repeat(1000), draw_keys(1, "cpu"))
    assert torch.equal(drawn, torch.tensor([0.0, 1.0]).repeat(1000))


def test_who_else_reads_the_filled_memory_sees_the_draw():
    def function(x):
        memory = torch.zeros_like(x)
        memory.normal_()
        return memory + 0

    graph, count = graph_of(function, torch.ones(1000))
    assert count == 1
    assert float(graph(torch.ones(1000), draw_keys(1, "cpu")).std()) == pytest.approx(1, abs=0.15)


def test_draws_of_one_run_have_keys_of_their_own():
    graph, count = graph_of(lambda x: torch.stack([torch.rand_like(x), torch.rand_like(x)]), torch.ones(5000))
    assert count == 2
    keys = draw_keys(2, "cpu", torch.Generator().manual_seed(0))
    one, other = graph(torch.ones(5000), keys)
    assert abs(stats.pearsonr(one, other).statistic) < 5 / math.sqrt(5000)
    again = graph(torch.ones(5000), keys)
    assert torch.equal(again, torch.stack([one, other]))
    swapped = graph(torch.ones(5000), keys.flip(0))
    assert torch.equal(swapped, torch.stack([other, one]))


def test_what_is_not_hashed_is_left_to_torch():
    graph, count = graph_of(lambda x: torch._standard_gamma(x) + torch.rand_like(x), torch.ones(10))
    assert count == 1
    assert len(remaining_draws(graph)) == 1
    torch.manual_seed(0)
    keys = draw_keys(1, "cpu", torch.Generator().manual_seed(0))
    first = graph(torch.ones(10), keys)
    assert not torch.equal(first, graph(torch.ones(10), keys))
    torch.manual_seed(0)
    assert torch.equal(first, graph(torch.ones(10), keys))
    plain, none = graph_of(torch.neg, torch.ones(3))
    assert none == 0
    assert torch.equal(plain(torch.ones(3)), -torch.ones(3))


def test_keys_come_from_the_generator():
    torch.manual_seed(5)
    first = draw_keys(3, "cpu")
    assert not torch.equal(first, draw_keys(3, "cpu"))
    torch.manual_seed(5)
    assert torch.equal(first, draw_keys(3, "cpu"))


@pytest.mark.parametrize("bits", [hashed_bits, pytest.param(threefry_bits, marks=pytest.mark.slow)])
def test_compiled_draws_are_the_same(bits):
    x = torch.rand(7, 33)
    graph = record(lambda x: torch.where(torch.rand_like(x) < 0.3, 1.0, x) + torch.randn_like(x), x)
    assert hash_noise(graph, bits) == 2
    keys = draw_keys(2, "cpu", torch.Generator().manual_seed(2))
    compiled = compile_graph(graph, x, keys)
    torch.testing.assert_close(compiled(x, keys), graph(x, keys), rtol=1e-5, atol=1e-6)
