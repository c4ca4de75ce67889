"""Captured calls, with a stand-in for the GPU's graphs, and on a GPU where there is one."""

import contextlib
import os
import subprocess
import sys
import time

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_dvae as dv
from pyro_dvae.engine import compiler
from pyro_dvae.engine.adam import Adams, slot, start
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder


class Graph:
    """A stand-in: a replay runs the captured function on the captured memory."""

    made = 0

    def __init__(self):
        Graph.made += 1

    def replay(self):
        for kept, value in zip(self.outputs, self.function(self.inputs), strict=True):
            kept.copy_(value)


@pytest.fixture
def captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    Graph.made = 0
    calls = []

    def function(inputs):
        state, x = inputs
        calls.append(state)
        state.add_(x)
        return [state * 2]

    made = compiler.Captured(function, fixed=1)

    @contextlib.contextmanager
    def capture(graph):
        before = made._inputs[0].clone()
        yield
        made._inputs[0].copy_(before)  # a capture computes nothing
        graph.function, graph.inputs, graph.outputs = function, made._inputs, made._outputs

    monkeypatch.setattr(torch.cuda, "graph", capture)

    # The stand-in's outputs are known only after the body.
    original = made._capture

    def then(inputs):
        original(inputs)
        made._graph.outputs = made._outputs

    made._capture = then
    return made, calls


def test_captured_calls_compute_what_the_function_does(captured):
    made, calls = captured
    state = torch.zeros(3)
    results, expected = [], torch.zeros(3)
    for number in range(8):
        x = torch.full((3,), float(number))
        results.append(made([state, x])[0])
        expected = expected + x
        assert torch.equal(state, expected)
        assert torch.equal(results[-1], 2 * expected)
    assert Graph.made == 1
    # Later replays do not change what was returned earlier.
    assert torch.equal(results[4], torch.full((3,), 2.0 * (0 + 1 + 2 + 3 + 4)))
    assert all(seen is state for seen in calls)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("noise", ["torch", "hashed"])
def test_on_a_gpu_the_step_is_captured_and_right(noise):
    x = (torch.rand(32, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float().cuda()
    results = []
    for kind in (SVI, dv.CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pair = dv.DVAE(GaussianEncoder(12, 3, (16,)), BernoulliDecoder(12, 3, (16,)), dv.BitFlip(0.1)).cuda()
        options = {"generator": noise} if kind is dv.CompiledSVI else {}
        bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
        loop = kind(pair.model, pair.guide, Adam({"lr": 0.01}), bound, **options)
        losses = torch.tensor([loop.step(x) for _ in range(400)])
        results.append(losses[200:])
    plain, fast = results
    error = (plain.var() / 200 + fast.var() / 200).sqrt()
    assert abs(float(plain.mean() - fast.mean())) < 5 * float(error) + 0.05 * float(plain.mean())
    (recorded,) = loop._recordings.all
    assert recorded.step._run._graph is not None


def test_a_step_on_a_gpu_has_no_input_on_the_cpu():
    """torch's Adam keeps its counts on the CPU unless it is fused; a CUDA graph can contain nothing there."""
    with FakeTensorMode():
        leaves = [torch.nn.Parameter(torch.empty(n, 2, device="cuda")) for n in (3, 4)]
        moments = [torch.empty(n, 2, device="cuda") for n in (3, 4)]
    optimizer = torch.optim.Adam(leaves)
    for leaf, moment in zip(leaves, moments, strict=True):
        optimizer.state[leaf] = {"step": torch.tensor(5.0), "exp_avg": moment, "exp_avg_sq": moment}
    adams = Adams([slot(optimizer, leaf) for leaf in leaves])
    assert [each.is_cuda for each in adams.fixed] == [True] * 6
    adams.advance()
    assert [float(optimizer.state[leaf]["step"]) for leaf in leaves] == [6.0, 6.0]


def test_counts_on_the_device_give_the_step_sizes_of_counts_on_the_host():
    leaves = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4)]
    optimizer = torch.optim.Adam([{"params": leaves[:1], "lr": 0.1}, {"params": leaves[1:], "lr": 0.2}])
    start(optimizer)
    for count, leaf in enumerate(leaves):
        optimizer.state[leaf]["step"] += count
    slots, batch = [slot(optimizer, leaf) for leaf in leaves], torch.ones(2)
    expected = Adams(slots).given()[-1].clone()
    adams = Adams(slots)
    adams._host = None  # as for a fused optimizer on a GPU
    found = adams.before([*adams.given(), batch])
    torch.testing.assert_close(found[-2], expected)
    corrected, root = 0.2 / (1 - 0.9**2), (1 - 0.999**2) ** -0.5
    torch.testing.assert_close(
        expected[1], torch.tensor([0.2, corrected, root, 1 - 0.9, 0.999, 1 - 0.999, 0.0])
    )
    assert found[-1] is batch
    assert [float(optimizer.state[leaf]["step"]) for leaf in leaves] == [1.0, 2.0]
    adams.advance()  # not the host's task
    assert [float(optimizer.state[leaf]["step"]) for leaf in leaves] == [1.0, 2.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_many_on_a_gpu_are_each_alone():
    data = (torch.rand(200, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()

    def make(seed):
        torch.manual_seed(seed)
        return dv.DVAE(GaussianEncoder(12, 3, (16,)), BernoulliDecoder(12, 3, (16,)), dv.BitFlip(0.1)).cuda()

    bound, options = dv.TraceDenoising_ELBO(max_plate_nesting=1), {"epochs": 3, "progress": False}
    pairs = [make(seed) for seed in range(2)]
    data = data.cuda()
    together = dv.fit_many([(p.model, p.guide) for p in pairs], data, loss=bound, batch_size=50, **options)
    for seed, found in enumerate(together):
        pyro.clear_param_store()
        alone = make(seed)
        history = dv.fit(
            alone.model, alone.guide, data, loss=bound, batch_size=50, seed=seed, compile=True, **options
        ).history
        assert found.history.train_bound == pytest.approx(history.train_bound, rel=1e-3)


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_compiled_draw_takes_eager_torchs_numbers(device):
    def draws(p, q):
        halves = p.expand(2, 3, 5) / 2
        discrete = [p.bernoulli(), q.bernoulli(), halves.bernoulli(), p.bernoulli(0.3), p.multinomial(2)]
        continuous = [torch.poisson(p), torch._standard_gamma(p), torch.randn_like(q), torch.rand_like(p)]
        return [*discrete, *continuous]

    p = torch.rand(3, 5, dtype=torch.float64, device=device)
    inputs = [p, p.float()]
    graph = make_fx(draws)(*inputs)
    compiled = compiler.build(graph, inputs)
    for run in (compiled, compiler.compile_graph(graph, *inputs)):
        torch.manual_seed(1)
        with torch.no_grad():
            found = run(inputs) if run is compiled else run(*inputs)
        torch.manual_seed(1)
        for value, expected in zip(found, draws(*inputs), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_compiled_draws_keep_the_order_of_the_program(device):
    """Before torch 2.14 the compiler moved a draw to its use: the noise of x came after that of z."""

    def step(x, loc):
        noise, z = torch.rand_like(x), loc + torch.randn_like(loc)
        return [z.square().sum(), (torch.where(noise < 0.3, 0.0, x) @ x.T).sum()]

    inputs = [torch.rand(8, 20, device=device), torch.rand(8, 3, device=device)]
    graph = make_fx(step)(*inputs)
    run = compiler.build(graph, inputs)
    for _ in range(6):  # on a GPU the later ones are captured
        torch.manual_seed(1)
        expected = step(*inputs)
        torch.manual_seed(1)
        for value, wanted in zip(run(inputs), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)


def test_an_equal_graph_is_compiled_once_and_acts_on_its_own_tensors(tmp_path, monkeypatch):
    from torch._dynamo.utils import counters
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    x = torch.ones(4, 3)

    def built(start, threads):
        kept, rate = torch.full((3,), start), torch.tensor(2.0)

        def step(x):
            kept.add_(x.sum(0))
            return [kept * x * rate]

        graph = make_fx(step)(x)
        kept.fill_(start)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            return compiler.build(graph, [x]), kept, rate
        finally:
            torch.set_num_threads(before)

    found = []
    for begin, threads in ((0.0, 1), (5.0, 1), (0.0, 2)):
        counters.clear()
        run, kept, rate = built(begin, threads)
        found.append(counters["inductor"]["fxgraph_cache_hit"])
        for turn in (1, 2):
            rate.fill_(turn)
            (value,) = run([x])
            assert torch.equal(kept, torch.full((3,), begin + 4 * turn))
            assert torch.equal(value, torch.full((4, 3), turn * (begin + 4 * turn)))
    hits = int(config.fx_graph_cache)  # off in old versions
    assert found == [0, hits, 0]  # the code for one thread differs from that for two


@pytest.mark.slow
def test_libraries_that_a_killed_compiler_left_unfinished_are_made_again(tmp_path):
    code = """
import os, pathlib, sys, warnings
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from pyro_dvae.engine import compiler
from pyro_dvae.engine.adam import Adams, slot, start
warnings.simplefilter("error")
x = torch.ones(4, 3)
run = compiler.build(make_fx(lambda a: [(a * 2 + 1).exp()])(x), [x])
frozen = compiler.compile_graph(make_fx(lambda a: (a - 3).tanh())(x), x)
assert torch.allclose(run([x])[0], torch.tensor(3.0).exp())
assert torch.allclose(frozen(x), torch.tensor(-2.0).tanh())
"""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    for age in (None, 1000.0):
        libraries = list(tmp_path.rglob("*.so"))
        for library in libraries:
            library.unlink()  # not truncated, because other names may be links to it
            library.touch()
            os.utime(library, (time.time() - age, time.time() - age))
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert any(library.stat().st_size > 0 for library in libraries)  # the others were not needed


@pytest.mark.parametrize(("age", "is_made_again"), [(0.0, False), (1000.0, True)])
def test_a_library_that_may_still_be_written_is_left_alone(tmp_path, monkeypatch, age, is_made_again):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    library, other = tmp_path / "cache" / "ab" / "cd.main.so", tmp_path / "other.so"
    library.parent.mkdir(parents=True)
    for path in (library, other):
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    graph, x = make_fx(lambda a: a + 1)(torch.ones(2)), torch.ones(2)

    def failing_once(graph, example):
        if library.exists():
            raise ImportError(f"{library}: file too short, {other}: file too short")
        return lambda *inputs: [graph(*inputs)]

    monkeypatch.setattr(compiler, "compiled", failing_once)
    if is_made_again:
        assert torch.equal(compiler.build(graph, [x])([x])[0], x + 1)
    else:
        with pytest.raises(compiler.NoCompiler, match="file too short"):
            compiler.build(graph, [x])
    assert library.exists() is not is_made_again
    assert other.exists()
