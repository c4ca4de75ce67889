"""Compiled training compared with ordinary training, and many models with each alone."""

import contextlib
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from each_epoch import BeforeEpoch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import NoCompiler, compiler
from pyro_dvae.engine.verification import Verification
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.training import Stopped, Trainer
from pyro_dvae.training.noise_keys import NoiseKeys

COMPILED = compiler._compiled
QUIET = {"progress": False, "batch_size": 64}


@pytest.fixture(autouse=True)
def _quick(interpreted):
    """Run recorded steps operation by operation, without the compiler, except in its own tests."""
    pyro.clear_param_store()


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def digits(rows=150, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, 12, generator=generator) < torch.linspace(0.05, 0.9, 12)).double()


def dvae(seed=0, level=0.1, corruption=dv.SaltAndPepper):
    torch.manual_seed(seed)
    noise = corruption(torch.tensor(level).double()) if isinstance(level, float) else corruption(level)
    pair = dv.DVAE(GaussianEncoder(12, 3, (8,)), BernoulliDecoder(12, 3, (8,)), noise)
    return pair.double()


def bound():
    return dv.TraceDenoising_ELBO(max_plate_nesting=1)


def fitted(pair, **options):
    pyro.clear_param_store()
    options = QUIET | {"epochs": 4} | options
    history = dv.fit(pair.model, pair.guide, digits(), loss=options.pop("bound", bound()), **options).history
    return history, [p.detach().clone() for p in pair.parameters()]


class Noiseless(nn.Module):
    """A pair without random draws: compiled and ordinary training must agree to rounding."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 12)).double()

    def model(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=self.net(x)).to_event(1), obs=x)

    def guide(self, x):
        pass


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_without_noise_it_is_ordinary_training(clip_norm, schedule):
    results = [
        fitted(
            Noiseless(),
            compile=compiled,
            clip_norm=clip_norm,
            schedule=schedule,
            learning_rate=0.02,
            validation=digits(40, 2),
        )
        for compiled in (False, True)
    ]
    (plain, weights), (fast, compiled) = results
    assert fast.train_bound == pytest.approx(plain.train_bound, rel=1e-12)
    assert fast.validation_bound == pytest.approx(plain.validation_bound, rel=1e-12)
    for one, other in zip(weights, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert plain.train_bound[-1] > plain.train_bound[0] + 0.1


@pytest.mark.slow
def test_noise_is_a_function_of_the_seed_alone():
    first, weights = fitted(dvae(), compile=True)
    torch.manual_seed(99)
    again, others = fitted(dvae(), compile=True)
    assert first.train_bound == again.train_bound
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert fitted(dvae(), compile=True, seed=1)[0].train_bound != first.train_bound


def test_the_noise_of_every_step_is_its_own():
    keys = NoiseKeys(0, "noise", 50, torch.device("cpu"))
    drawn = torch.stack([keys.at(epoch, step, 3) for epoch in range(4) for step in range(50)])
    assert len({tuple(row) for row in drawn.reshape(-1, 2).tolist()}) == 4 * 50 * 3
    assert torch.equal(NoiseKeys(0, "noise", 50, torch.device("cpu")).at(2, 7, 3), drawn[107])
    assert not torch.equal(NoiseKeys(0, "other", 50, torch.device("cpu")).at(2, 7, 3), drawn[107])


@pytest.mark.slow
def test_the_bounds_equal_those_of_ordinary_training_except_for_the_noise():
    plain, fast = (
        fitted(dvae(), compile=compiled, epochs=60, learning_rate=0.01)[0] for compiled in (False, True)
    )
    difference = torch.tensor(plain.train_bound[-20:]) - torch.tensor(fast.train_bound[-20:])
    assert abs(float(difference.mean())) < 0.25
    assert fast.train_bound[-1] > fast.train_bound[0] + 1


@pytest.mark.slow
def test_schedules_of_the_noise_are_followed():
    levels = []

    def make():
        pair = dvae(level=dv.LinearSchedule(0.5, 0.0, 4))
        levels.append(pair.guide.corruption)
        return pair

    history, _ = fitted(
        make(),
        compile=True,
        learning_rate=1e-9,
        callbacks=[BeforeEpoch(lambda e: levels[0].set_epoch(e))],
        epochs=5,
    )
    still, _ = fitted(dvae(level=0.5), compile=True, learning_rate=1e-9, epochs=5)
    none, _ = fitted(dvae(level=0.0), compile=True, learning_rate=1e-9, epochs=5)
    assert history.train_bound[0] == pytest.approx(still.train_bound[0], abs=1e-4)
    assert history.train_bound[4] == pytest.approx(none.train_bound[4], abs=1e-4)
    assert abs(still.train_bound[4] - none.train_bound[4]) > 1e-3


@pytest.mark.slow  # compiled/test_compiled_svi.py has quicker ones
def test_a_weight_in_an_attribute_is_never_frozen():
    def run(compiled):
        pair = Noiseless()
        pair.weight = 1.0

        def model(x):
            with pyro.poutine.scale(scale=pair.weight):
                pair.model(x)

        pyro.clear_param_store()
        history = dv.fit(
            model,
            pair.guide,
            digits(),
            loss=bound(),
            epochs=4,
            compile=compiled,
            callbacks=[BeforeEpoch(lambda epoch: setattr(pair, "weight", 1.0 + epoch))],
            **QUIET,
        ).history
        return history.train_bound

    assert run(True) == pytest.approx(run(False), rel=1e-10)


def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path):
    whole = dvae()
    fitted(whole, compile=True, epochs=4, checkpoint=tmp_path / "whole")

    def trainer(resume):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pair = dvae()
        made = Trainer(
            pair.model,
            pair.guide,
            digits(),
            loss=bound(),
            epochs=4,
            compile=True,
            checkpoint=tmp_path / "stopped",
            resume=resume,
            **QUIET,
        )
        return pair, made

    _, first = trainer(False)

    def until_stopped():
        for epoch in first:
            for number, x in enumerate(epoch):
                first.step(x)
                if (epoch.number, number) == (2, 1):
                    first._requests._interrupts.requested = True

    with pytest.raises(Stopped):
        until_stopped()
    pair, second = trainer(True)
    for epoch in second:
        for x in epoch:
            second.step(x)
    for one, other in zip(whole.parameters(), pair.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_compiled_is_trained_by_ordinary_steps(monkeypatch):
    def broken(graph, example):
        raise NoCompiler("no C++ compiler")

    monkeypatch.setattr(compiler, "_compiled", broken)
    with pytest.warns(UserWarning, match=r"uncompiled steps.*no C\+\+ compiler"):
        history, weights = fitted(dvae(), compile=True)
    assert len(history.epochs) == 4
    assert all(bool(torch.isfinite(weight).all()) for weight in weights)


def test_a_batch_that_decides_something_is_trained_by_ordinary_steps():
    pair = Noiseless()

    def model(x):
        if float(x.mean()) > 2:
            raise AssertionError
        pair.model(x)

    with pytest.warns(UserWarning, match="uncompiled steps"):
        dv.fit(model, pair.guide, digits(), loss=bound(), epochs=2, compile=True, **QUIET)


def test_divergence_is_reported():
    pair = Noiseless()
    with pytest.raises(dv.DivergenceError, match="epoch 1, step 2"):
        fitted(pair, compile=True, learning_rate=1e308)


def test_transforms_that_draw_are_compiled_and_keep_their_distribution():
    seen = []
    pair = Noiseless()

    def model(x):
        pair.model(x)

    trainer = Trainer(
        model,
        pair.guide,
        torch.full((200, 12), 0.3).double(),
        loss=bound(),
        epochs=3,
        compile=True,
        transform=torch.bernoulli,
        **QUIET,
    )
    for epoch in trainer:
        for x in epoch:
            seen.append(x.clone())
            trainer.step(x)
    drawn = torch.cat(seen)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=4.5 * (0.21 / drawn.numel()) ** 0.5)
    assert not torch.equal(seen[0], seen[1])
    assert trainer._batches.compiled is not None
    assert any(found is not None for found in trainer._batches.compiled._found.values())


def test_bounds_of_several_draws_are_recorded_once():
    pair = dvae()
    several = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1)
    trainer = Trainer(pair.model, pair.guide, digits(128), loss=several, epochs=7, compile=True, **QUIET)
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
    assert trainer._steps.compiled is not None
    assert [len(steps) for steps in trainer._steps.compiled._steps.values()] == [1]


def test_short_runs_are_not_compiled():
    pair = Noiseless()
    short = Trainer(pair.model, pair.guide, digits(), loss=bound(), epochs=5, **QUIET)
    assert short._steps.compiled is None
    pyro.clear_param_store()
    long = Trainer(pair.model, pair.guide, digits(), loss=bound(), epochs=3000, **QUIET)
    assert long._steps.compiled is not None
    assert long.compile_seconds == 0


def test_rounded_products_are_compiled_in_short_runs_too(bfloat16_pays):
    pair = dvae()
    trainer = Trainer(pair.model, pair.guide, digits(), loss=bound(), epochs=2, bfloat16=True, **QUIET)
    assert trainer._steps.compiled is not None
    with pytest.raises(dv.InputError, match="bfloat16: it has no effect without compiled steps; leave out"):
        fitted(dvae(), bfloat16=True, compile=False)


@pytest.mark.slow
def test_the_compiler(monkeypatch):
    with no_warnings():
        interpreted = fitted(dvae(), compile=True, epochs=2)
    monkeypatch.setattr(compiler, "_compiled", COMPILED)
    recorded = fitted(dvae(), compile=True, epochs=2)
    assert recorded[0].train_bound == pytest.approx(interpreted[0].train_bound, rel=1e-10)
    for one, other in zip(recorded[1], interpreted[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


# Many models


def alone_and_together(make, count=3, rates=None, **options):
    rates = rates or [0.01] * count
    options = {"epochs": 3, "validation": digits(40, 2)} | options
    pairs = [make(number) for number in range(count)]
    alone = [
        fitted(pair, compile=True, seed=number + 5, learning_rate=rates[number], **options)
        for number, pair in enumerate(pairs)
    ]
    pairs = [make(number) for number in range(count)]
    pyro.clear_param_store()
    together = dv.fit_many(
        [(pair.model, pair.guide) for pair in pairs],
        digits(),
        loss=options.pop("bound", bound()),
        seeds=[number + 5 for number in range(count)],
        learning_rate=rates,
        **QUIET,
        **options,
    )
    assert not pyro.get_param_store()._params
    for (history, weights), result, pair in zip(alone, together, pairs, strict=True):
        assert result.history.train_bound == pytest.approx(history.train_bound, rel=1e-11)
        assert result.history.validation_bound == pytest.approx(history.validation_bound, rel=1e-11)
        assert result.history.best_epoch == history.best_epoch
        assert result.history.learning_rate == history.learning_rate
        for one, other in zip(weights, pair.parameters(), strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-9, atol=1e-11)
    bounds = {tuple(result.history.train_bound) for result in together}
    assert len(bounds) == count
    return together


@pytest.mark.slow
def test_many_are_each_alone():
    results = alone_and_together(dvae)
    assert set(results[0].best) == {f"parameters/{n}" for n in names(results[0])} | {
        "buffers/guide.corruption.rate.value"
    }


def names(result):
    return result.store["params"].keys()


@pytest.mark.slow
def test_learning_rates_noise_levels_and_clipping_differ_for_each():
    alone_and_together(
        lambda number: dvae(number, 0.05 + 0.1 * number),
        rates=[0.001, 0.01, 0.03],
        clip_norm=1.0,
        schedule="step",
        epochs=5,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "elbo",
    [
        lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1),
        lambda: dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, max_plate_nesting=1),
        lambda: dv.TraceSemiImplicit_ELBO(num_mixture=3, max_plate_nesting=1),
    ],
)
def test_many_by_other_bounds(elbo):
    def make(number):
        torch.manual_seed(number)
        noise = dv.GaussianNoise(torch.tensor(0.3).double(), learnable=True)
        return dv.DVAE(GaussianEncoder(12, 3, (8,)), BernoulliDecoder(12, 3, (8,)), noise).double()

    alone_and_together(make, bound=elbo(), epochs=2)


@pytest.mark.slow
def test_running_statistics_of_many():
    def make(number):
        pair = dvae(number)
        pair.guide.encoder.trunk.add_module("norm", nn.BatchNorm1d(8).double())
        return pair

    alone_and_together(make)


@pytest.mark.slow
def test_a_stopped_run_of_many_resumes(tmp_path):
    def run(folder, **options):
        pairs = [dvae(number) for number in range(2)]
        given = [(pair.model, pair.guide) for pair in pairs]
        found = dv.fit_many(
            given,
            digits(),
            loss=bound(),
            epochs=4,
            validation=digits(40, 2),
            checkpoint=folder / "many",
            **QUIET,
            **options,
        )
        return pairs, found

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, expected = run(tmp_path / "a")

    class Stop:
        def __call__(self, epoch):
            if epoch == 1:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        run(tmp_path / "b", callbacks=[BeforeEpoch(Stop())])
    pairs, found = run(tmp_path / "b", resume=True)
    for pair, other in zip(whole, pairs, strict=True):
        for one, two in zip(pair.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)
    for one, two in zip(expected, found, strict=True):
        assert one.history.train_bound == two.history.train_bound
        assert one.history.best_epoch == two.history.best_epoch
        assert all(torch.equal(one.best[name], two.best[name]) for name in one.best)
    with pytest.raises(dv.CheckpointError, match=r"another configuration: learning_rate was .0\.001, "):
        run(tmp_path / "b", resume=True, learning_rate=0.5)


def test_pairs_of_another_structure_are_refused():
    def pair(**sizes):
        made = dvae()
        made.guide.encoder = GaussianEncoder(
            12, 3, sizes.get("hidden", (8,)), sizes.get("activation", "tanh")
        )
        return made.double()

    def fit(*pairs, **options):
        return dv.fit_many(
            [(p.model, p.guide) for p in pairs], digits(), loss=bound(), epochs=1, **QUIET, **options
        )

    with pytest.raises(dv.InputError, match=r"pairs\[1\]: expected parameter .*\[8, 12\].*got .*\[9, 12\]"):
        fit(pair(), pair(hidden=(9,)))
    with pytest.raises(dv.InputError, match=r"pairs\[1\]: expected a program like the first one's"):
        fit(pair(), pair(activation="relu"))
    same = pair()
    with pytest.raises(dv.InputError, match=r"pairs\[1\]: parameter .* is shared with pairs\[0\]"):
        fit(same, same)
    with pytest.raises(dv.InputError, match="seeds: expected one value or 2"):
        fit(pair(), pair(), seeds=[1, 2, 3])
    with pytest.raises(dv.InputError, match="at least one"):
        fit()


@pytest.mark.slow
def test_a_model_that_diverges_does_not_stop_the_others():
    pairs = [dvae(0), dvae(1)]
    with pytest.warns(UserWarning, match="model 1 diverged in epoch 1"):
        found = dv.fit_many(
            [(p.model, p.guide) for p in pairs],
            digits(),
            loss=bound(),
            validation=digits(40, 2),
            learning_rate=[0.01, 1e300],
            epochs=3,
            **QUIET,
        )
    alone, _ = fitted(dvae(0), compile=True, epochs=3, learning_rate=0.01, validation=digits(40, 2))
    assert found[0].history.train_bound == pytest.approx(alone.train_bound, rel=1e-10)
    assert found[0].history.validation_bound == pytest.approx(alone.validation_bound, rel=1e-10)
    assert found[1].history.best_epoch is None


@pytest.mark.slow
def test_each_of_many_may_have_its_own_data():
    sets = [digits(seed=1), digits(seed=3), digits(seed=1)]
    held_out = [digits(40, 2), digits(40, 4), digits(40, 2)]
    alone = []
    for number, (own, held) in enumerate(zip(sets, held_out, strict=True)):
        pyro.clear_param_store()
        pair = dvae(number)
        options = QUIET | {"epochs": 4, "validation": held, "compile": True, "seed": number}
        alone.append((dv.fit(pair.model, pair.guide, own, loss=bound(), **options).history, pair))
    pyro.clear_param_store()
    pairs = [dvae(number) for number in range(3)]
    sets[2] = sets[0]  # two of the models share one set
    given = [(pair.model, pair.guide) for pair in pairs]
    found = dv.fit_many(given, sets, loss=bound(), validation=held_out, epochs=4, **QUIET)
    for (history, pair), result, other in zip(alone, found, pairs, strict=True):
        assert result.history.train_bound == pytest.approx(history.train_bound, rel=1e-11)
        assert result.history.validation_bound == pytest.approx(history.validation_bound, rel=1e-11)
        for one, two in zip(pair.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)
    with pytest.raises(dv.InputError, match="data: expected one set or 3, one for each pair, got 2"):
        dv.fit_many(given, sets[:2], loss=bound(), **QUIET)
    with pytest.raises(dv.InputError, match=r"data: expected sets of one shape and type, got \(150, 12\)"):
        dv.fit_many(given, [*sets[:2], digits(20)], loss=bound(), **QUIET)


@pytest.mark.slow
def test_the_best_of_each_of_many_can_be_put_back():
    pairs = [dvae(0), dvae(1)]
    given = [(pair.model, pair.guide) for pair in pairs]
    found = dv.fit_many(
        given, digits(), loss=bound(), validation=digits(40, 2), epochs=5, learning_rate=0.3, **QUIET
    )
    assert any(result.history.best_epoch < 5 for result in found)
    for result, pair in zip(found, pairs, strict=True):
        result.load_best()
        pyro.clear_param_store()  # both have parameters of the same names
        for name, parameter in result.trained.parameters.items():
            assert torch.equal(parameter, result.best[f"parameters/{name}"])
        again = dv.evaluate_bound(
            pair.model,
            pair.guide,
            digits(40, 2),
            loss=dv.TraceDenoising_ELBO(num_corruptions=500, max_plate_nesting=1),
            seed=0,
        )
        assert again.mean == pytest.approx(result.history.best_validation_bound, abs=0.6)


@pytest.mark.parametrize("many", [False, True])
def test_validation_every_so_many_epochs(many):
    pair, options = dvae(), QUIET | {"epochs": 7, "validation": digits(40, 2), "validate_every": 3}
    if many:
        history = dv.fit_many([(pair.model, pair.guide)], digits(), loss=bound(), **options)[0].history
    else:
        history = dv.fit(pair.model, pair.guide, digits(), loss=bound(), **options).history
    validated = [value is not None for value in history.validation_bound]
    assert validated == [False, False, True, False, False, True, True]
    assert history.best_epoch in (3, 6, 7)
    with pytest.raises(dv.InputError, match="validate_every"):
        dv.fit(pair.model, pair.guide, digits(), loss=bound(), **options | {"validate_every": 0})


def many_with_a_number_in_a_file(path, change=lambda epoch: None):
    """Train two models; the second reads a number from a file, whose changes cannot be seen."""
    paths = [path / "first", path / "second"]
    for each in paths:
        each.write_text("2.0")
    pairs = []
    for number, each in enumerate(paths):
        pair = dvae(number)

        def guide(x, pair=pair, each=each):
            with pyro.poutine.scale(scale=float(each.read_text())):
                return pair.guide(x)

        pairs.append((pair.model, guide))
    options = {"progress": False, "batch_size": 50, "callbacks": [BeforeEpoch(change)], "epochs": 8}
    return dv.fit_many(pairs, digits(), loss=bound(), **options)


@pytest.mark.slow
def test_many_are_compared_with_their_programs(tmp_path):
    many_with_a_number_in_a_file(tmp_path)

    def change(epoch):
        if epoch == 2:
            (tmp_path / "second").write_text("3.0")

    with pytest.raises(
        dv.CompiledStepError,
        match=r"step 10 of a compiled loss: pairs\[1\]: the recorded step gives .*2.0\), then .*3.0\)",
    ):
        many_with_a_number_in_a_file(tmp_path, change)


@pytest.mark.slow
def test_comparing_many_disturbs_nothing(monkeypatch):
    results = []
    for compares in (False, True):
        monkeypatch.setattr(Verification, "_due", lambda self, compares=compares: compares)
        pyro.clear_param_store()
        pairs = [dvae(0), dvae(1, 0.3)]
        streams = torch.get_rng_state()
        found = dv.fit_many([(p.model, p.guide) for p in pairs], digits(), loss=bound(), epochs=3, **QUIET)
        assert torch.equal(torch.get_rng_state(), streams)
        results.append([each.history.train_bound for each in found])
        results[-1] += [p.detach().clone().tolist() for pair in pairs for p in pair.parameters()]
    assert results[0] == results[1]


def test_wrong_compiled_code_for_many_is_found_at_once(monkeypatch):
    def wrong(graph, example):
        run = compiler.interpret(graph)
        return lambda inputs: [run(inputs)[0] * torch.tensor([1.0, 1.01])]

    monkeypatch.setattr(compiler, "_compiled", wrong)
    pairs = [dvae(0), dvae(1)]
    with pytest.raises(dv.CompiledStepError, match="step 1 of a compiled loss: the compiled step gives"):
        dv.fit_many([(p.model, p.guide) for p in pairs], digits(), loss=bound(), **QUIET)


def test_detection_of_anomalies_cannot_be_recorded():
    with torch.autograd.set_detect_anomaly(True):
        with pytest.warns(UserWarning, match="torch's detection of anomalies reads every gradient"):
            fitted(dvae(), epochs=1, compile=True)
        pairs = [(each.model, each.guide) for each in (dvae(0), dvae(1))]
        with pytest.raises(dv.InputError, match="side by side: torch's detection of anomalies"):
            dv.fit_many(pairs, digits(), loss=bound(), epochs=1, progress=False)


@pytest.mark.slow
def test_gradients_that_the_caller_has_switched_off_are_on_in_a_compiled_step():
    expected, _ = fitted(dvae(), compile=True)
    with torch.no_grad(), no_warnings():
        found, _ = fitted(dvae(), compile=True)
    assert found.train_bound == expected.train_bound
