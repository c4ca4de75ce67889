"""The compiled step compared with Pyro's own, under one seed."""

import time
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, DiscreteProblem, LinearGaussian
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.optim import SGD, Adam, AdamW, ClippedAdam, ExponentialLR
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import CompiledSVI, NoCompiler, compiler, kernels
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

pytestmark = pytest.mark.usefixtures("interpreted")

COMPILED = compiler._compiled

ONE_PLATE = {"max_plate_nesting": 1}
ELBOS = {
    "Trace_ELBO": lambda: Trace_ELBO(),
    "Trace_ELBO, vectorised": lambda: Trace_ELBO(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
    "TraceMeanField_ELBO": lambda: TraceMeanField_ELBO(),
    "TraceGraph_ELBO": lambda: TraceGraph_ELBO(),
    "RenyiELBO": lambda: RenyiELBO(alpha=0.5, num_particles=2),
    "denoising": lambda: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, **ONE_PLATE),
    "sticking the landing": lambda: dv.TraceDenoising_ELBO(gradient="stl", **ONE_PLATE),
    "mean-field": lambda: dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3, **ONE_PLATE),
    "importance-weighted": lambda: dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=2, num_particles=3, **ONE_PLATE
    ),
    "dreg": lambda: dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=1, num_particles=3, gradient="dreg", **ONE_PLATE
    ),
    "mixture": lambda: dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=2, num_particles=3, combine="mixture", **ONE_PLATE
    ),
    "semi-implicit": lambda: dv.TraceSemiImplicit_ELBO(
        num_corruptions=2, num_particles=3, num_mixture=4, **ONE_PLATE
    ),
}
OPTIMIZERS = {
    "Adam": lambda: Adam({"lr": 0.03}),
    "Adam, settings": lambda: Adam({"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    "AdamW": lambda: AdamW({"lr": 0.03, "weight_decay": 0.3}),
    "clipped norm": lambda: Adam({"lr": 0.03}, {"clip_norm": 0.5}),
    "clipped value": lambda: Adam({"lr": 0.03}, {"clip_value": 0.2}),
    "per parameter": lambda: Adam(lambda name: {"lr": 0.1 if "W" in name else 0.01}),
    "ClippedAdam": lambda: ClippedAdam({"lr": 0.03, "lrd": 0.9}),
    "SGD": lambda: SGD({"lr": 1e-3, "momentum": 0.9}),
}


def data(count, seed=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(kind, problem, elbo, optimizer, batches, between=None):
    """Train and return losses, parameters and the object that did it."""
    pyro.clear_param_store()
    chosen = optimizer()
    loop = kind(problem.model, problem.guide, chosen, elbo())
    pyro.set_rng_seed(3)
    losses = []
    for number, batch in enumerate(batches):
        if between is not None:
            between(number, chosen, problem)
        losses.append(loop.step(batch))
    return losses, {name: p.detach().clone() for name, p in problem.named_parameters()}, loop


def assert_same(make, elbo, optimizer, batches, between=None, tolerance=1e-9):
    expected, weights, _ = trained(SVI, make(), elbo, optimizer, batches, between)
    found, compiled_weights, loop = trained(CompiledSVI, make(), elbo, optimizer, batches, between)
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert all(isinstance(loss, float) for loss in found)
    for name, value in weights.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=tolerance, atol=tolerance)
    return loop


def compiled_shapes(loop):
    return loop.recorded


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "Trace" in name or n % 2 else ())
        for n, name in enumerate(ELBOS)
    ],
)
def test_every_elbo(name, monkeypatch):
    ordinary, own = [], CompiledSVI._ordinary
    monkeypatch.setattr(CompiledSVI, "_ordinary", lambda *given: ordinary.append(1) or own(*given))
    loop = assert_same(LinearGaussian, ELBOS[name], OPTIMIZERS["Adam"], [data(8, seed) for seed in range(13)])
    assert compiled_shapes(loop) == 1
    assert len(ordinary) == 1  # also after the comparison at the tenth compiled step


@pytest.mark.parametrize("problem", [BinaryProblem, pytest.param(DiscreteProblem, marks=pytest.mark.slow)])
@pytest.mark.parametrize("elbo", [Trace_ELBO, dv.TraceDenoising_ELBO, dv.TraceDenoisingIWAE_ELBO])
def test_score_functions(problem, elbo):
    x = (data(6) > 0).double()
    loop = assert_same(
        lambda: problem(dv.BitFlip(torch.tensor(0.2).double(), learnable=True)),
        lambda: elbo(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        OPTIMIZERS["Adam"],
        [x] * 5,
    )
    assert compiled_shapes(loop) == 1


SOME = ("Adam, settings", "clipped norm", "per parameter", "SGD")


@pytest.mark.parametrize(
    "name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS]
)
def test_every_optimizer(name):
    assert_same(LinearGaussian, ELBOS["denoising"], OPTIMIZERS[name], [data(8)] * 6)


def test_batches_of_several_sizes():
    batches = [data(8, 0), data(8, 1), data(3, 2)] * 3
    loop = assert_same(LinearGaussian, ELBOS["denoising"], OPTIMIZERS["Adam"], batches)
    assert compiled_shapes(loop) == 2


def test_step_sizes_that_change():
    def schedule(number, optimizer, problem):
        if number:
            optimizer.step()

    def optimizer():
        return ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.7})

    loop = assert_same(LinearGaussian, ELBOS["denoising"], optimizer, [data(8)] * 6, schedule)
    assert compiled_shapes(loop) == 1


def test_a_noise_level_that_changes():
    def make():
        problem = LinearGaussian()
        problem.corruption = dv.GaussianNoise(dv.LinearSchedule(0.8, 0.0, 6)).double()
        return problem

    def schedule(number, optimizer, problem):
        problem.corruption.set_epoch(number)

    assert_same(make, ELBOS["denoising"], OPTIMIZERS["Adam"], [data(8)] * 6, schedule)


def test_changed_settings_are_compiled_again():
    def change(number, optimizer, problem):
        if number == 3:
            for each in optimizer.optim_objs.values():
                each.param_groups[0]["weight_decay"] = 0.5

    assert_same(LinearGaussian, ELBOS["denoising"], OPTIMIZERS["Adam"], [data(8)] * 7, change)


def test_an_optimizer_state_that_is_put_back():
    def replace(number, optimizer, problem):
        for each in optimizer.optim_objs.values():
            if number == 2:
                each.kept = {"state": _copied(each.state_dict()), "value": None}
            elif number == 4:
                each.load_state_dict(each.kept["state"])

    assert_same(LinearGaussian, ELBOS["denoising"], OPTIMIZERS["Adam"], [data(8)] * 8, replace)


def _copied(state):
    import copy

    return copy.deepcopy(state)


def functions():
    def model(x):
        loading = pyro.param("loading", torch.ones(3, 2, dtype=torch.float64))
        scale = pyro.param("scale", torch.tensor(1.0).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loading.T, scale).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", 0.1 * torch.ones(3, 2, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ loc, 0.5).to_event(1))

    return model, guide


@pytest.mark.parametrize("clear", [False, True])
def test_the_param_store_stays_the_truth(clear):
    results = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        loop = kind(*functions(), Adam({"lr": 0.05}), Trace_ELBO())
        pyro.set_rng_seed(1)
        losses = []
        for number in range(8):
            if clear and number == 4:
                pyro.clear_param_store()
            losses.append(loop.step(data(6)))
        store = pyro.get_param_store()
        results.append((losses, {name: store[name].detach().clone() for name in store}))
        assert float(store["scale"].detach()) > 0
    (expected, weights), (found, compiled_weights) = results
    assert found == pytest.approx(expected, rel=1e-9)
    for name, value in weights.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=1e-9, atol=1e-9)


def test_modes_and_statistics():
    def make():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2)).double()

        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.decoder = net, nn.Linear(2, 3).double()

            def model(self, x):
                pyro.module("decoder", self.decoder)
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

            def guide(self, x):
                pyro.module("net", self.net)
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))

        return Pair()

    kept = []

    def modes(number, optimizer, problem):
        problem.train(number < 4)
        kept.append(problem.net[1].running_mean.clone())

    loop = assert_same(make, Trace_ELBO, OPTIMIZERS["Adam"], [data(8)] * 8, modes, tolerance=1e-7)
    assert compiled_shapes(loop) == 2
    for plain, fast in zip(kept[:8], kept[8:], strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-6, atol=1e-7)


def test_what_cannot_be_recorded_is_trained_by_ordinary_steps():
    problem = LinearGaussian()

    def guide(x):
        if float(x.sum()) > 1e9:
            raise AssertionError
        problem.guide(x)

    loop = CompiledSVI(problem.model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    loop.step(data(4))
    with pytest.warns(UserWarning, match="uncompiled steps"):
        loop.step(data(4))
    assert isinstance(loop.step(data(4)), float)
    loop.step(data(5))
    loop.step(data(5))  # another shape, no second warning


def test_sites_named_by_tensors_are_trained_by_ordinary_steps_at_once():
    """A plate's indices are tensors while recording, whose text contains their graphs."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        for i in pyro.plate("rows", 8, subsample_size=4):
            pyro.sample(f"x_{i}", dist.Normal(loc, 1.0), obs=x[i])

    loop = CompiledSVI(model, lambda x: None, Adam({"lr": 0.01}), Trace_ELBO())
    loop.step(torch.ones(8))
    began = time.perf_counter()
    with pytest.warns(UserWarning, match=r"written as text.*\(in model, test_compiled_svi.py:\d+\)"):
        loop.step(torch.ones(8))
    assert time.perf_counter() - began < 3
    assert isinstance(loop.step(torch.ones(8)), float)


def test_enumeration_is_trained_by_ordinary_steps():
    def model(x):
        weight = pyro.param("weight", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(weight * z, 1.0), obs=x)

    @config_enumerate
    def guide(x):
        odds = pyro.param("odds", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=odds * x))

    results = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        loop = kind(model, guide, Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1))
        losses = [loop.step(torch.linspace(-1, 1, 6))]
        with pytest.warns(UserWarning, match="uncompiled steps") if kind is CompiledSVI else nullcontext():
            losses.append(loop.step(torch.linspace(-1, 1, 6)))
        losses.append(loop.step(torch.linspace(-1, 1, 6)))
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_evaluate_loss_and_keywords():
    problem = LinearGaussian()
    loop = CompiledSVI(
        lambda x, *, shift: problem.model(x + shift),
        lambda x, *, shift: problem.guide(x + shift),
        Adam({"lr": 0.01}),
        Trace_ELBO(),
    )
    shifts = [torch.tensor(float(n), dtype=torch.float64) for n in range(4)]
    losses = [loop.step(data(4), shift=shift) for shift in shifts]
    assert losses[3] > losses[1]  # a tensor argument is not frozen
    assert compiled_shapes(loop) == 1
    pyro.set_rng_seed(1)
    first = loop.evaluate_loss(data(4), shift=shifts[0])
    pyro.set_rng_seed(1)
    assert first == Trace_ELBO().loss(loop.model, loop.guide, data(4), shift=shifts[0])


def weighted(weight=None):
    """A pair whose latent's terms are weighted by an argument or by ``weight``."""
    problem = LinearGaussian()

    def scaled(program):
        def run(x, given=None):
            with pyro.poutine.scale(scale=given if weight is None else weight()):
                return program(x)

        return run

    return scaled(problem.model), scaled(problem.guide), problem


def losses_of(kind, make, steps, before=None):
    pyro.clear_param_store()
    model, guide, problem = make()
    loop = kind(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    pyro.set_rng_seed(3)
    losses = []
    for number in range(steps):
        arguments = () if before is None else before(number)
        losses.append(loop.step(data(8), *arguments))
    return losses, {name: p.detach().clone() for name, p in problem.named_parameters()}, loop


def same_losses(make, steps, before=None):
    expected, weights, _ = losses_of(SVI, make, steps, before)
    found, compiled_weights, loop = losses_of(CompiledSVI, make, steps, before)
    assert found == pytest.approx(expected, rel=1e-9)
    for name, value in weights.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=1e-9, atol=1e-9)
    return loop


def test_a_weight_that_is_an_argument_changes_at_every_step():
    loop = same_losses(weighted, 8, lambda number: (0.1 + 0.1 * number,))
    assert compiled_shapes(loop) == 1


def test_a_number_that_decides_something_is_a_shape_of_its_own():
    def make():
        model, guide, problem = weighted()

        def choosing(program):
            return lambda x, given: program(x, 0.5) if given > 0.5 else program(x, 2.0)

        return choosing(model), choosing(guide), problem

    loop = same_losses(make, 9, lambda number: (float(number >= 3),))
    assert compiled_shapes(loop) == 2


KEPT = {"weight": 1.0}
GLOBAL_WEIGHT = 1.0


def in_closure():
    weight = 1.0

    def get():
        return weight

    def put(value):
        nonlocal weight
        weight = value

    return get, put


def in_global():
    def get():
        return GLOBAL_WEIGHT

    def put(value):
        global GLOBAL_WEIGHT
        GLOBAL_WEIGHT = value

    return get, put


def in_dictionary():
    return (lambda: KEPT["weight"]), (lambda value: KEPT.update(weight=value))


def in_attribute():
    holder = nn.Identity()
    holder.weight = 1.0
    return (lambda: holder.weight), (lambda value: setattr(holder, "weight", value))


def in_replaced_tensor():
    holder = nn.Identity()
    holder.register_buffer("weight", torch.tensor(1.0))

    def put(value):
        holder.weight = torch.tensor(value)

    return (lambda: holder.weight), put


SLOW_PLACES = [
    pytest.param(each, marks=pytest.mark.slow) for each in (in_global, in_dictionary, in_attribute)
]


@pytest.mark.parametrize("place", [in_closure, in_replaced_tensor, *SLOW_PLACES])
def test_a_weight_found_elsewhere_is_never_frozen(place):
    get, put = place()

    def before(number):
        if number == 4:
            put(0.25)
        return ()

    def make():
        put(1.0)
        return weighted(get)

    try:
        loop = same_losses(make, 9, before)
    finally:
        put(1.0)
    assert compiled_shapes(loop) == 2


@pytest.mark.slow
def test_tensors_that_are_replaced_at_every_step():
    get, put = in_replaced_tensor()

    kept = []  # otherwise a new tensor may take the address, and so the id, of an old one

    def before(number):
        put(1.0 + 0.01 * number)
        kept.append(get())
        return ()

    with pytest.warns(UserWarning, match="keep changing"):
        same_losses(lambda: weighted(get), 70, before)


def test_a_program_that_counts_its_calls_is_trained_by_ordinary_steps():
    """A compiled step would not count, and the purpose of the count is unknown."""
    counts = []

    def make():
        problem = LinearGaussian()
        calls = [0]
        counts.append(calls)

        def model(x):
            calls[0] += 1
            problem.model(x)

        return model, problem.guide, problem

    with pytest.warns(UserWarning, match=r"the program itself changes an entry of a list "):
        loop = same_losses(make, 6)
    assert compiled_shapes(loop) == 0
    assert counts == [[6], [6]]  # trying to record has not counted


@pytest.mark.slow
def test_values_that_never_come_back_are_not_compiled_for_ever():
    get, put = in_attribute()

    def before(number):
        put(1.0 + 0.01 * (number // 2))
        return ()

    with pytest.warns(UserWarning, match="more than 16 shapes"):
        loop = same_losses(lambda: weighted(get), 40, before)
    assert compiled_shapes(loop) == 16


def test_advance_returns_the_loss_as_a_tensor():
    problem = LinearGaussian()
    loop = CompiledSVI(problem.model, problem.guide, Adam({"lr": 0.01}), Trace_ELBO())
    assert isinstance(loop.advance(data(4)), float)  # an ordinary step
    losses = [loop.advance(data(4)) for _ in range(3)]
    assert all(isinstance(loss, torch.Tensor) and loss.shape == () for loss in losses)
    assert len({float(loss) for loss in losses}) == 3


@pytest.mark.slow
def test_hashed_noise_follows_the_seed_and_has_the_distribution():
    def losses(noise, seed):
        """The losses of many steps without updates."""
        pyro.clear_param_store()
        problem = LinearGaussian()
        loop = CompiledSVI(problem.model, problem.guide, SGD({"lr": 0.0}), Trace_ELBO(), generator=noise)
        pyro.set_rng_seed(seed)
        return torch.tensor([loop.step(data(8)) for _ in range(2000)]).double()[1:]

    first, again, other = (losses("hashed", seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain = losses("torch", 3)
    error = (plain.var() / len(plain) + first.var() / len(first)).sqrt()
    assert abs(float(plain.mean() - first.mean())) < 4.5 * float(error)
    assert float(first.std() / plain.std()) == pytest.approx(1, abs=0.1)


def test_products_in_bfloat16_are_close_and_not_equal(monkeypatch):
    monkeypatch.setattr(kernels, "pays", lambda: True)
    x = (torch.rand(20, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    results = []
    for bfloat16 in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        dvae = dv.DVAE(GaussianEncoder(12, 3, (16,)), BernoulliDecoder(12, 3, (16,)), dv.BitFlip(0.1))
        loop = CompiledSVI(
            dvae.model, dvae.guide, Adam({"lr": 1e-3}), dv.TraceDenoising_ELBO(**ONE_PLATE), bfloat16=bfloat16
        )
        results.append([loop.step(x) for _ in range(10)])
        assert all(p.dtype == torch.float32 for p in dvae.parameters())
    exact, rounded = results
    assert exact[0] == rounded[0]  # an ordinary step
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.01)


def test_unknown_noise_is_refused():
    with pytest.raises(dv.InputError, match="generator: unknown name 'hash'"):
        CompiledSVI(print, print, Adam({"lr": 0.1}), Trace_ELBO(), generator="hash")


@pytest.mark.parametrize("elbo", ["denoising", pytest.param("importance-weighted", marks=pytest.mark.slow)])
def test_the_compiler(monkeypatch, elbo):
    monkeypatch.setattr(compiler, "_compiled", COMPILED)
    loop = assert_same(LinearGaussian, ELBOS[elbo], OPTIMIZERS["Adam"], [data(8)] * 6, tolerance=1e-8)
    assert compiled_shapes(loop) == 1


def test_a_setting_of_the_precision_of_products_is_a_shape_of_its_own():
    """torch refuses its older way to read the precision once the newer one has been set."""
    problem = LinearGaussian()
    loop = CompiledSVI(problem.model, problem.guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(3):
        loop.step(data(4))
    assert loop.recorded == 1
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
            torch.get_float32_matmul_precision()
        for _ in range(3):
            loop.step(data(4))
    finally:
        products.fp32_precision = before
    assert loop.recorded == 2


def test_a_failing_compiler_is_reported(monkeypatch):
    def broken(graph, example):
        raise NoCompiler("no C++ compiler")

    monkeypatch.setattr(compiler, "_compiled", broken)
    problem = LinearGaussian()
    loop = CompiledSVI(problem.model, problem.guide, Adam({"lr": 0.01}), Trace_ELBO())
    loop.step(data(4))
    with pytest.warns(UserWarning, match="uncompiled steps"):
        loop.step(data(4))
    assert isinstance(loop.step(data(4)), float)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("make", [lambda: SGD({"lr": 0.01, "momentum": 0.9}), lambda: Adam({"lr": 0.01})])
def test_a_loss_that_is_not_finite_changes_no_parameter(make):
    problem = LinearGaussian()
    svi = CompiledSVI(problem.model, problem.guide, make(), dv.TraceDenoising_ELBO(**ONE_PLATE))
    x = torch.randn(6, 3, dtype=torch.float64)
    with pyro.validation_enabled(False):
        for _ in range(3):
            svi.step(x)
        before = {name: value.clone() for name, value in pyro.get_param_store().items()}
        for rows in (x * torch.nan, x[:-1] * torch.nan):
            svi.step(rows)
    assert svi.recorded
    for name, value in pyro.get_param_store().items():
        assert torch.equal(value, before[name]), name
