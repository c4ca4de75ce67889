"""The comparison of compiled steps with their program: its cost, its side effects, and what it finds."""

import cProfile
import gc
import random
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import compiler, observing, verification

pytestmark = pytest.mark.usefixtures("interpreted")


class Pair(nn.Module):
    """Running statistics, dropout and a latent: everything that a comparison could disturb."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2)
        ).double()

    def model(self, x):
        w = pyro.param("w", torch.ones(2, 3, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.25 * z @ w, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def x(seed=0):
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(kind, steps=13, **options):
    pyro.clear_param_store()
    pair = Pair()
    loop = kind(pair.model, pair.guide, Adam({"lr": 0.01}), Trace_ELBO(), **options)
    pyro.set_rng_seed(3)
    losses = [loop.step(x(seed)) for seed in range(steps)]
    return losses, {name: t.clone() for name, t in pair.state_dict().items()}, loop


def test_nothing_is_disturbed(monkeypatch):
    compared = []
    original = verification.Verification.before

    def before(self, tensors, keys):
        streams = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
        state = [t.clone() for t in (*self._compared.leaves, *pair_buffers(self))]
        result = original(self, tensors, keys)
        compared.append(result is not None)
        assert torch.equal(torch.get_rng_state(), streams[0])
        assert random.getstate() == streams[1]
        assert repr(np.random.get_state(legacy=False)) == repr(streams[2])  # noqa: NPY002
        now = (*self._compared.leaves, *pair_buffers(self))
        assert all(torch.equal(a, b) for a, b in zip(now, state, strict=True))
        return result

    def pair_buffers(self):
        return self._compared.recording.surroundings._tensors

    monkeypatch.setattr(verification.Verification, "before", before)
    plain, weights, _ = trained(SVI)
    found, compiled, _ = trained(dv.CompiledSVI)
    assert compared == [n in (1, 10) for n in range(1, 13)]
    assert found == pytest.approx(plain, rel=1e-9)
    for name, value in weights.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-7, atol=1e-9)


def test_other_comparisons_take_a_thousandth_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(verification.time, "perf_counter", lambda: now[0])
    each = verification.Verification(None)
    spent = 0.0
    for _ in range(400_000):
        now[0] += 1e-3
        if each._due():
            each._last = 0.05
            each._spent += 0.05
            now[0] += 0.05
            spent += 0.05
    assert spent > 0.31  # 0.3 s at the powers of ten
    assert 0.0007 < spent / now[0] < 0.0011


@pytest.mark.parametrize("noise", ["torch", "hashed"])
def test_wrong_compiled_code_is_found_at_once(monkeypatch, noise):
    def wrong(graph, example):
        run = compiler.interpret(graph)
        return lambda inputs: [1.01 * run(inputs)[0]]

    monkeypatch.setattr(compiler, "_compiled", wrong)
    with pytest.raises(
        dv.CompiledStepError, match="step 1 of a compiled loss: the compiled step gives a loss"
    ):
        trained(dv.CompiledSVI, generator=noise)


def test_the_error_names_the_number(tmp_path):
    path = tmp_path / "weight"
    path.write_text("2.0")

    def model(x):
        w = pyro.param("w", torch.ones(3, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * float(path.read_text()), 1.0).to_event(1), obs=x)

    loop = dv.CompiledSVI(model, lambda x: None, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(4):
        loop.step(x())
    path.write_text("3.0")
    for _ in range(6):
        loop.step(x())
    with pytest.raises(
        dv.CompiledStepError, match=r"aten.mul.Tensor\(.*2.0\), then aten.mul.Tensor\(.*3.0\)"
    ):
        loop.step(x())


def test_built_in_numbers_are_reported():
    _, _, loop = trained(dv.CompiledSVI)
    assert 0.25 in [each.value for each in loop.constants]
    (quarter,) = [each for each in loop.constants if each.value == 0.25]
    assert (quarter.operation, quarter.line.split(":")[0]) == ("mul", "model, test_verification.py")
    assert str(quarter) == f"0.25 (mul, {quarter.line})"
    assert not any("training" in each.line for each in loop.constants)


def test_a_profiler_continues_afterwards():
    seen = []
    profiler = cProfile.Profile()
    profiler.enable()
    trained(dv.CompiledSVI, steps=3)
    sorted([2, 1])
    profiler.disable()
    assert any("sorted" in str(each.code) for each in profiler.getstats())
    sys.setprofile(lambda *given: seen.append(given[1]))
    try:
        with observing.observed():
            pass
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    assert seen


COLLECTIONS = 0


def _counts_collections(phase, info):
    global COLLECTIONS
    COLLECTIONS += 1


def test_what_the_garbage_collector_calls_is_no_part_of_the_program():
    thresholds, before = gc.get_threshold(), COLLECTIONS
    gc.callbacks.append(_counts_collections)
    gc.set_threshold(50)
    try:
        with observing.observed() as seen:
            [[] for _ in range(10_000)]
        assert "COLLECTIONS" not in seen.names()
        assert gc.isenabled()
        [[] for _ in range(10_000)]
        assert before < COLLECTIONS  # it is called again
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(_counts_collections)


def test_further_shapes_are_compiled_when_they_have_come_often(monkeypatch):
    from pyro_dvae.engine import recordings

    monkeypatch.setattr(recordings, "_OFTEN", 5)
    said = []
    pyro.clear_param_store()
    pair = Pair()
    loop = dv.CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}), Trace_ELBO(), say=said.append)
    for seed in range(4):
        loop.step(x(seed))
        loop.step(x(seed)[:5])  # the last batch of an epoch
    assert [each for each in said if "compiling" in each] == [
        "compiling the training step for arguments of shape (8, 3) ..."
    ]
    assert loop.recorded == 2
    for seed in range(4):
        loop.step(x(seed)[:5])
    assert said[-2] == "compiling the training step for arguments of shape (5, 3) ..."
    assert said[-1].startswith("compiled in ")


def test_a_transform_of_the_last_batch_is_not_compiled(monkeypatch):
    built = []
    monkeypatch.setattr(
        compiler, "_compiled", lambda graph, example: built.append(1) or compiler.interpret(graph)
    )
    pair, said = Pair(), []

    class Noting:
        note = staticmethod(said.append)
        start = step = epoch = stop = staticmethod(lambda *given: None)

    data = torch.cat([x(seed) for seed in range(3)])[:20]
    dv.fit(
        pair.model,
        pair.guide,
        data,
        loss=Trace_ELBO(),
        epochs=1,
        batch_size=8,
        compile=True,
        transform=lambda rows: rows + 0.1 * torch.randn_like(rows),
        progress=Noting(),
    )
    assert len(built) == 2  # the transform and the step of whole batches
    assert said[0] == "compiling the transform of batches ..."
    assert said[1] == "compiling the training step, batches of (8, 3) ..."
    assert said[2].startswith("compiled in ")
    assert len(said) == 3
