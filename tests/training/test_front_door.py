"""What ``fit``, ``Trainer`` and ``fit_many`` accept, refuse, train, move and record."""

import inspect
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from pyro.infer import JitTrace_ELBO, RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceTailAdaptive_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_dvae as dv
from pyro_dvae import InputError
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.training.many import NOT_OF_MANY
from pyro_dvae.training.settings import Settings
from pyro_dvae.training.stacked import members_of

NORMALISER = -0.5 * math.log(2 * math.pi)


def dvae(corruption=None, seed=0, likelihood=BernoulliDecoder):
    torch.manual_seed(seed)
    return dv.DVAE(GaussianEncoder(3, 2, (4,)), likelihood(3, 2, (4,)), corruption)


def binary(rows=6):
    return torch.bernoulli(torch.full((rows, 3), 0.5), generator=torch.Generator().manual_seed(1))


def fitted(pair, x, bound=None, **options):
    bound = dv.TraceDenoising_ELBO() if bound is None else bound
    options = {"epochs": 1, "batch_size": 4, "progress": False, "compile": False} | options
    return dv.fit(pair.model, pair.guide, x, loss=bound, **options).history


# One argument list


@pytest.mark.parametrize("front", [dv.Trainer, dv.fit_many])
def test_a_training_has_one_argument_list(front):
    given, shared = (inspect.signature(each).parameters for each in (front, Settings))
    left_out = NOT_OF_MANY if front is dv.fit_many else set()
    assert shared.keys() - left_out <= given.keys()
    own = {"checkpoint_every"}  # many small models are saved less often
    for name in shared.keys() - left_out - own:
        assert given[name].default == shared[name].default, name


# Nats per datum


class Constant(nn.Module):
    """x ~ N(0, 1), z ~ N(0, 1) and the guide is the prior: every bound is log p(x), a constant."""

    def __init__(self, size=None, local=True, scale=1.0):
        super().__init__()
        self.size, self.local, self.weight = size, local, scale
        self.idle = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def _plate(self, x):
        return pyro.plate("data", len(x)) if self.size is None else pyro.plate("data", self.size, subsample=x)

    def model(self, x):
        pyro.module("constant", self)
        zero = 0 * self.idle
        with pyro.poutine.scale(scale=self.weight):
            if not self.local:
                pyro.sample("z", dist.Normal(zero, 1.0))
            with self._plate(x):
                if self.local:
                    pyro.sample("z", dist.Normal(zero, 1.0))
                pyro.sample("x", dist.Normal(zero, 1.0), obs=x)

    def guide(self, x):
        zero = 0 * self.idle
        with pyro.poutine.scale(scale=self.weight):
            if not self.local:
                pyro.sample("z", dist.Normal(zero, 1.0))
                return
            with self._plate(x):
                pyro.sample("z", dist.Normal(zero, 1.0))


BOUNDS = {
    "denoising": lambda: dv.TraceDenoising_ELBO(),
    "M = K = 4": lambda: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=4),
    "stock": lambda: Trace_ELBO(),
    "stock, K = 4": lambda: Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    "does its own backward": lambda: RenyiELBO(alpha=0.0, num_particles=2),
}


CASES = [(size, rows, False) for size in (None, 4, 40) for rows in (1, 2, 3, 4)] + [(4, 3, True)]


@pytest.mark.parametrize(("size", "batch_size", "compiled"), CASES)
@pytest.mark.usefixtures("interpreted")
def test_the_record_is_in_nats_per_datum_whatever_the_plate(size, batch_size, compiled):
    x = torch.zeros(4, dtype=torch.float64)
    history = fitted(Constant(size), x, epochs=2, batch_size=batch_size, validation=x[:3], compile=compiled)
    assert history.train_bound == pytest.approx([NORMALISER] * 2, abs=1e-9)
    assert history.validation_bound == pytest.approx([NORMALISER] * 2, abs=1e-9)
    bound = dv.evaluate_bound(Constant(size).model, Constant(size).guide, x, loss=dv.TraceDenoising_ELBO())
    assert bound.mean == pytest.approx(NORMALISER, abs=1e-9)


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("pair", [Constant(4), Constant(4, local=False), Constant(4, scale=0.25)])
def test_the_record_is_the_same_for_every_bound(pair, bound):
    x = torch.zeros(4, dtype=torch.float64)
    history = fitted(pair, x, bound(), batch_size=3, validation=x)
    assert [*history.train_bound, *history.validation_bound] == pytest.approx([NORMALISER] * 2, abs=1e-7)


@pytest.mark.slow
def test_the_record_of_one_run_equals_that_of_many():
    x = torch.zeros(4, dtype=torch.float64)
    pairs = [Constant(4), Constant(4)]
    found = dv.fit_many(
        [(pair.model, pair.guide) for pair in pairs],
        x,
        loss=dv.TraceDenoising_ELBO(),
        epochs=2,
        batch_size=3,
        validation=x,
        progress=False,
    )
    for each in found:
        assert each.history.train_bound == pytest.approx([NORMALISER] * 2, abs=1e-9)
        assert each.history.validation_bound == pytest.approx([NORMALISER] * 2, abs=1e-9)


def test_a_scaled_batch_counts_as_num_data_rows_only_once():
    for bound_of in ("data", "batch"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        made = dvae()
        pair = dv.FullBayes(made.model.decoder, made.guide, 6, bound_of=bound_of)
        history = fitted(pair, binary(), learning_rate=1e-9)
        if bound_of == "data":
            wanted = history.train_bound
    assert history.train_bound == pytest.approx(wanted, rel=1e-5)


def test_a_step_is_run_once_for_the_record():
    pair, calls = Constant(4), []
    model = pair.model
    pair.model = lambda x: (calls.append(len(x)), model(x))
    fitted(pair, torch.zeros(4, dtype=torch.float64), Trace_ELBO(), batch_size=3)
    assert calls == [3, 3, 1]  # the dry run, and the two steps


# Schedules


def test_schedules_move_by_themselves():
    noise = dv.GaussianNoise(dv.LinearSchedule(0.1, 0.5, epochs=4))
    bound = dv.TraceSemiImplicit_ELBO(num_mixture=dv.LinearSchedule(1, 3, epochs=2))
    pair, seen = dvae(noise), []

    def note(run):
        seen.append((round(float(noise.levels()[0].value), 4), bound.num_mixture))

    fitted(pair, binary(), bound, epochs=3, callbacks=[note])
    assert seen == [(0.1, 1), (0.2, 2), (0.3, 3)]


@pytest.mark.slow
def test_schedules_move_by_themselves_in_closures_and_in_many():
    noises = [dv.GaussianNoise(dv.LinearSchedule(0.1, end, epochs=2)) for end in (0.3, 0.5)]
    pairs = [dvae(noise) for noise in noises]
    guides = [lambda x, pair=pair: pair.guide(x) for pair in pairs]
    dv.fit(pairs[0].model, guides[0], binary(), loss=dv.TraceDenoising_ELBO(), epochs=2, progress=False)
    assert float(noises[0].levels()[0].value) == pytest.approx(0.2)
    dv.fit_many(
        [(pair.model, guide) for pair, guide in zip(pairs, guides, strict=True)],
        binary(),
        loss=dv.TraceDenoising_ELBO(),
        epochs=2,
        progress=False,
    )
    assert [float(noise.levels()[0].value) for noise in noises] == pytest.approx([0.2, 0.3])


def test_a_resumed_run_has_the_level_of_its_epoch(tmp_path):
    def train(epochs, **options):
        pyro.clear_param_store()
        noise = dv.GaussianNoise(dv.LinearSchedule(0.1, 0.5, epochs=4))
        pyro.set_rng_seed(0)
        fitted(dvae(noise), binary(), epochs=epochs, checkpoint=tmp_path / "c.safetensors", **options)
        return float(noise.levels()[0].value)

    assert train(2) == pytest.approx(0.2)
    assert train(4, resume=True) == pytest.approx(0.4)


# What is trained


def test_what_is_not_trained_is_named_by_many_too():
    pair = Constant()
    pair.feature = nn.Linear(1, 1)
    words = r"^pairs\[0\]: not trained: guide.feature.weight, guide.feature.bias, which no param statement"
    model, example = Constant().model, torch.zeros(4, dtype=torch.float64)
    with pytest.warns(UserWarning, match=words):
        members_of([(model, Holder(pair))], dv.TraceDenoising_ELBO(), (example,))
    pair.feature.requires_grad_(False)  # silent: warnings are errors in these tests
    pyro.clear_param_store()
    members_of([(model, Holder(pair))], dv.TraceDenoising_ELBO(), (example,))


class Holder(nn.Module):
    def __init__(self, pair):
        super().__init__()
        self.feature, self.pair = pair.feature, [pair]

    def forward(self, x):
        return self.pair[0].guide(x)


# What is refused


TYPES = [torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_data_of_another_type_than_the_modules(dtype):
    x, pair = binary().to(dtype), dvae()
    words = (
        rf"expected torch.float32, as in the parameters .*, got {dtype}; convert it \(.to\(torch.float32\)\)"
    )
    program = {"model": pair.model, "guide": lambda x: (pair.guide.register(), plain(pair, x))}

    def plain(pair, x):
        with pyro.plate("data", len(x)):
            return pair.guide.sample(x)

    bound = dv.TraceDenoising_ELBO()
    with pytest.raises(InputError, match=f"^data: {words}"):
        dv.fit(*program.values(), x, loss=bound, progress=False)
    with pytest.raises(InputError, match=f"^data: {words}"):
        dv.fit_many([tuple(program.values())], x, loss=bound, progress=False)
    with pytest.raises(InputError, match=f"^data: {words}"):
        dv.evaluate_bound(*program.values(), x, loss=bound)
    with pytest.raises(InputError, match=f"^data: {words}"):
        dv.log_likelihood(*program.values(), x, num_samples=10)
    with pytest.raises(InputError, match=f"^data: {words}"):
        dv.annealed_log_likelihood(*program.values(), x, start="guide", num_steps=2)
    with pytest.raises(InputError, match=f"^data: {words}"):
        dv.bounds_report(*program.values(), x)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (binary().to_sparse(), r"expected a dense tensor, got torch.sparse_coo; call .to_dense\(\)"),
        (torch.zeros(6, 3, device="meta"), "expected a tensor with values, got one on the device 'meta'"),
        (torch.zeros(()), r"expected data of shape \[N, ...\]"),
    ],
)
def test_data_that_are_no_dense_rows(x, words):
    pair = dvae()
    bound = dv.TraceDenoising_ELBO()
    for name, call in [
        ("data", lambda: dv.fit(pair.model, pair.guide, x, loss=bound, progress=False)),
        ("validation", lambda: fitted(pair, binary(), validation=x)),
        ("data", lambda: dv.evaluate_bound(pair.model, pair.guide, x, loss=bound)),
    ]:
        with pytest.raises(InputError, match=f"^{name}: {words}"):
            call()


def test_validation_data_of_another_type():
    words = "^validation: expected torch.float32, as data has, got torch.float64$"
    with pytest.raises(InputError, match=words):
        fitted(dvae(), binary(), validation=binary().double())


def test_values_outside_the_support_of_the_likelihood():
    x = torch.tensor([[0.0, 3.0, 0.0]] * 4)
    words = r"^data: .* likelihood of site 'x' \(values from 0 to 1\), got values from 0 to 3"
    with pytest.raises(InputError, match=words):
        fitted(dvae(), x)
    pair = dvae()
    with pytest.raises(InputError, match=words):
        dv.fit_many([(pair.model, pair.guide)], x, loss=dv.TraceDenoising_ELBO(), progress=False)
    fitted(dvae(), x / 10)  # grey values: a cross-entropy
    fitted(dvae(), x, transform=lambda x: x / 3)
    late = torch.tensor([[0.0, 1.0, 0.0]] * 7 + [[0.0, 3.0, 0.0]])
    for name, options in (("data", {}), ("validation", {"validation": late})):
        with pytest.raises(InputError, match=words.replace("data", name)):
            fitted(dvae(), late[:7] if options else late, batch_size=4, **options)


def test_masked_values_need_not_lie_in_the_support():
    pair, x = dvae(), torch.tensor([[0.0, 1.0, 0.0], [3.0, 3.0, 3.0]])

    def model(x):
        with pyro.poutine.mask(mask=(x <= 1).all(-1)):
            return pair.model(x)

    history = dv.fit(model, pair.guide, x, loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False).history
    assert math.isfinite(history.train_bound[0])


@pytest.mark.parametrize("name", sorted(NOT_OF_MANY))
def test_what_is_of_single_models_is_refused_for_many(name):
    pair = dvae()
    with pytest.raises(dv.InputError, match=f"{name}: no option of fit_many"):
        dv.fit_many([(pair.model, pair.guide)], binary(), loss=dv.TraceDenoising_ELBO(), **{name: None})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (JitTrace_ELBO(), r"torch\.jit, which fails here; give Trace_ELBO and compile=True"),
        (ReweightedWakeSleep(num_particles=2), "returns 2 losses instead of one; use pyro.infer.SVI"),
        (TraceTailAdaptive_ELBO(num_particles=2), "an infinite loss.* use pyro.infer.SVI"),
    ],
)
def test_losses_of_pyro_that_fit_does_not_train(loss, words):
    problem = LinearGaussian()
    with pytest.raises(InputError, match=words):
        dv.fit(problem.model, problem.plain_guide, torch.zeros(4, 3).double(), loss=loss, epochs=1)
    if isinstance(loss, TraceTailAdaptive_ELBO):
        with pytest.raises(InputError, match=words):
            dv.CompiledSVI(problem.model, problem.plain_guide, Adam({}), loss)
