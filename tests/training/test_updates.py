"""Optimizers, schedules, gathered gradients, frozen parameters and averages: values, also after resuming."""

import json
import math
import signal
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from small_runs import HELD_OUT, Noiseless, Pair, X, assert_resumes, outcome, run, trainer
from torch.optim import SGD, AdamW, RMSprop, lr_scheduler

import pyro_dvae as dv
from pyro_dvae.training import Trainer
from pyro_dvae.training.epochs import epoch_order

pytestmark = pytest.mark.usefixtures("interpreted")


def noiseless(rows=None, **options):
    """Return a trained pair without noise, whose steps can be computed by hand, and its trainer."""
    pyro.clear_param_store()
    pair = Noiseless(rows)
    settings = {"epochs": 3, "batch_size": 6, "learning_rate": 0.01, "progress": False}
    settings |= {"loss": dv.TraceDenoising_ELBO(max_plate_nesting=1)}
    return pair, run(Trainer(pair.model, pair.guide, X, **(settings | options)))


def by_hand(make, batch_size=6, epochs=3, scheduler=None, after=lambda pair: None, scale=None):
    """Return the weights that torch's own loop gives: the same batches, the gradient of the same loss."""
    pair = Noiseless()
    optimizer = make(pair)
    schedule = scheduler(optimizer) if scheduler else None
    for epoch in range(epochs):
        for rows in epoch_order(len(X), batch_size, 0, epoch).split(batch_size):
            optimizer.zero_grad()
            (pair.loss(X[rows]) * (1 if scale is None else scale / len(rows))).backward()
            optimizer.step()
            after(pair)
        if schedule is not None:
            schedule.step()
    return dict(pair.named_parameters())


def assert_weights(pair, expected):
    for name, value in pair.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)


OPTIMIZERS = {
    "class": (SGD, lambda pair: SGD(pair.parameters(), lr=0.01)),
    "partial": (
        partial(RMSprop, momentum=0.9),
        lambda pair: RMSprop(pair.parameters(), lr=0.01, momentum=0.9),
    ),
    "variant": (
        partial(AdamW, amsgrad=True),
        lambda pair: AdamW(pair.parameters(), lr=0.01, amsgrad=True),
    ),
    "function": (
        lambda parameters: AdamW(parameters, lr=0.03, weight_decay=0.1),
        lambda pair: AdamW(pair.parameters(), lr=0.03, weight_decay=0.1),
    ),
    "pyro": (
        pyro.optim.SGD({"lr": 0.002, "momentum": 0.9}),
        lambda pair: SGD(pair.parameters(), lr=0.002, momentum=0.9),
    ),
    "pyro by name": (
        pyro.optim.Adam(lambda name: {"lr": 0.1 if name.startswith("shift") else 0.01}),
        lambda pair: torch.optim.Adam(
            [
                {"params": pair.net.parameters(), "lr": 0.01},
                {"params": pair.shift.parameters(), "lr": 0.1},
            ]
        ),
    ),
    "pyro by module and name": (
        pyro.optim.Adam(lambda module, name: {"lr": 0.1 if module == "shift" else 0.01}),
        lambda pair: torch.optim.Adam(
            [
                {"params": pair.net.parameters(), "lr": 0.01},
                {"params": pair.shift.parameters(), "lr": 0.1},
            ]
        ),
    ),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_as_by_hand(name, compiled):
    choice, make = OPTIMIZERS[name]
    pair, _ = noiseless(optimizer=choice, compile=compiled)
    assert_weights(pair, by_hand(make))


@pytest.mark.parametrize("compiled", [False, True])
def test_pyro_clips_each_parameter_for_itself(compiled):
    choice = pyro.optim.Adam({"lr": 0.05}, clip_args={"clip_norm": 0.5})
    pair, _ = noiseless(optimizer=choice, compile=compiled)
    pyro.clear_param_store()
    other = Noiseless()
    svi = pyro.infer.SVI(
        other.model, other.guide, pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.5}), pyro.infer.Trace_ELBO()
    )
    for epoch in range(3):
        for rows in epoch_order(len(X), 6, 0, epoch).split(6):
            svi.step(X[rows])
    assert_weights(pair, dict(other.named_parameters()))


@pytest.mark.parametrize("compiled", [False, True])
def test_options_of_single_parameters(compiled):
    options = {"shift*": {"lr": 0.1}, "*bias": {"weight_decay": 0.5}}
    pair, _ = noiseless(optimizer=AdamW, parameter_options=options, compile=compiled)

    def make(pair):
        groups = [
            {"params": [pair.net.weight]},
            {"params": [pair.net.bias], "weight_decay": 0.5},
            {"params": [pair.shift.weight], "lr": 0.1},
            {"params": [pair.shift.bias], "lr": 0.1, "weight_decay": 0.5},
        ]
        return AdamW(groups, lr=0.01)

    assert_weights(pair, by_hand(make))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "schedule",
    [
        partial(lr_scheduler.ExponentialLR, gamma=0.5),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 3),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.ConstantLR(optimizer, 0.1, 1), lr_scheduler.ExponentialLR(optimizer, 0.5)],
            [1],
        ),
    ],
)
def test_schedules_of_torch(schedule, compiled):
    pair, made = noiseless(schedule=schedule, compile=compiled)
    assert_weights(
        pair, by_hand(lambda pair: torch.optim.Adam(pair.parameters(), lr=0.01), scheduler=schedule)
    )
    assert len(set(made.history.learning_rate)) > 1


def test_a_plateau_is_one_of_the_validation_bound():
    bounds = [1.0, 0.5, 0.5, 2.0]
    for mode in ("min", "max"):
        left = list(bounds)
        schedule = partial(lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=1, mode=mode)
        _, made = noiseless(epochs=4, schedule=schedule, evaluate=lambda left=left: left.pop(0))
        assert made.history.learning_rate == pytest.approx([0.01, 0.01, 0.01, 0.001])
    with pytest.raises(dv.InputError, match="schedule: ReduceLROnPlateau needs a validation bound"):
        noiseless(schedule=lr_scheduler.ReduceLROnPlateau)


def test_a_pyro_schedule():
    choice = pyro.optim.ExponentialLR({"optimizer": SGD, "optim_args": {"lr": 0.01}, "gamma": 0.5})
    pair, made = noiseless(optimizer=choice)
    schedule = partial(lr_scheduler.ExponentialLR, gamma=0.5)
    assert_weights(pair, by_hand(lambda pair: SGD(pair.parameters(), lr=0.01), scheduler=schedule))
    assert made.history.learning_rate == pytest.approx([0.01, 0.005, 0.0025])


# Gathered gradients


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rows", [None, 24])
@pytest.mark.parametrize("optimizer", [None, SGD])
def test_gathered_gradients_equal_those_of_the_large_batch(compiled, rows, optimizer):
    """Also if the plate is subsampled, so that each loss estimates that of all rows."""
    options = {"optimizer": optimizer, "compile": compiled, "learning_rate": 0.001, "clip_norm": 5.0}
    small, _ = noiseless(rows, batch_size=4, accumulate=3, **options)
    large, _ = noiseless(rows, batch_size=12, **options)
    assert_weights(small, dict(large.named_parameters()))


def test_the_last_gradient_of_an_epoch_may_be_of_fewer_batches():
    small, _ = noiseless(batch_size=4, accumulate=4)
    make = partial(torch.optim.Adam, lr=0.01)
    assert_weights(small, by_hand(lambda pair: make(pair.parameters()), batch_size=16))


# Frozen parameters


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("choice", ["name", "pattern", "module", "tensors", "requires_grad"])
def test_frozen_parameters_stay(choice, compiled):
    pyro.clear_param_store()
    pair = Noiseless()
    before = {name: value.detach().clone() for name, value in pair.named_parameters()}
    chosen = {
        "name": ["shift$$$weight", "shift$$$bias"],
        "pattern": "shift*",
        "module": pair.shift,
        "tensors": [pair.shift.weight, pair.shift.bias],
        "requires_grad": None,
    }
    if choice == "requires_grad":
        pair.shift.requires_grad_(False).eval()  # in training mode Pyro warns
    made = Trainer(
        *(pair.model, pair.guide, X),
        loss=dv.TraceDenoising_ELBO(max_plate_nesting=1),
        epochs=3,
        batch_size=6,
        progress=False,
        learning_rate=0.01,
        freeze=chosen[choice],
        compile=compiled,
    )
    run(made)
    expected = by_hand(lambda pair: torch.optim.Adam(pair.net.parameters(), lr=0.01))
    assert torch.equal(pair.shift.weight, before["shift.weight"])
    assert torch.equal(pair.shift.bias, before["shift.bias"])
    assert_weights(pair, expected)
    assert not torch.equal(pair.net.weight, before["net.weight"])
    assert pair.shift.weight.requires_grad == (choice != "requires_grad")
    assert any(torch.equal(value, pair.shift.weight) for value in made.fitted().trained.tensors().values())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("shft*", r"freeze: no parameter matches 'shft\*'; the nearest is 'shift\$\$\$(weight|bias)'"),
        ("*", "freeze: expected some parameters to be left to train, got all of them"),
        (torch.nn.Linear(2, 2), "freeze: a Linear holds no parameter of model and guide"),
        (3, "freeze: expected names, modules or tensors, got int"),
    ],
)
def test_what_cannot_be_frozen(choice, message):
    with pytest.raises(dv.InputError, match=message):
        noiseless(freeze=choice)


# Averages


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", [None, SGD])
def test_averages_have_their_closed_form(compiled, optimizer):
    """e_T = d^T θ_0 + (1 − d) Σ_t d^(T−t) θ_t."""
    decay, path = 0.8, []
    options = {"optimizer": optimizer, "compile": compiled, "learning_rate": 0.001}

    class Path(dv.Callback):
        def start(self, run):
            path.append({name: leaf.detach().clone() for name, leaf in run.parameters.items()})

        step = start

    pair, made = noiseless(ema=decay, callbacks=[Path()], **options)
    steps = len(path) - 1
    plain, _ = noiseless(**options)
    assert_weights(pair, dict(plain.named_parameters()))  # training continues from the weights
    for name, average in made._run.update.average.items():
        wanted = decay**steps * path[0][name]
        wanted = wanted + (1 - decay) * sum(decay ** (steps - t) * path[t][name] for t in range(1, steps + 1))
        torch.testing.assert_close(average, wanted, rtol=1e-10, atol=1e-13)
    made.load_best()
    for name, leaf in made.parameters.items():
        assert torch.equal(leaf, made._run.update.average[name])


def test_averages_are_validated_and_kept():
    pair, made = noiseless(ema=0.5, validation=HELD_OUT, epochs=2)
    live = [value.detach().clone() for value in pair.parameters()]
    made.load_best()
    assert made.history.best_epoch == 2
    assert float(-pair.loss(HELD_OUT).detach()) / 8 == pytest.approx(
        made.history.validation_bound[-1], rel=1e-12
    )
    assert not any(torch.equal(a, b) for a, b in zip(live, pair.parameters(), strict=True))


# Resume, bit for bit

OPTIONS = {
    "SGD": lambda: {"optimizer": partial(SGD, momentum=0.9), "learning_rate": 0.001},
    "AdamW": lambda: {"optimizer": AdamW, "parameter_options": {"decoder*": {"lr": 0.001}}},
    "pyro": lambda: {"optimizer": pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.99})},
    "cosine": lambda: {"schedule": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2)},
    "cycle": lambda: {
        "optimizer": SGD,
        "schedule": lambda each: lr_scheduler.OneCycleLR(each, 0.001, total_steps=6),
    },
    "plateau": lambda: {"schedule": partial(lr_scheduler.ReduceLROnPlateau, patience=0)},
    "gathered": lambda: {"accumulate": 2},
    "averaged": lambda: {"ema": 0.9},
    "frozen": lambda: {"freeze": "decoder*"},
    "warm-up": lambda: {"loss": dv.TraceDenoising_ELBO(kl_weight=dv.LinearSchedule(0, 1, epochs=3))},
    "all": lambda: {
        "optimizer": RMSprop,
        "schedule": partial(lr_scheduler.ExponentialLR, gamma=0.9),
        "accumulate": 2,
        "freeze": "*bias",
        "ema": 0.5,
        "clip_norm": 1.0,
    },
}


COMPILED = [pytest.param(name, True, marks=[] if name == "AdamW" else pytest.mark.slow) for name in OPTIONS]


@pytest.mark.parametrize(("name", "compiled"), [*((name, False) for name in OPTIONS), *COMPILED])
def test_a_resumed_run_ends_as_it_would_have(tmp_path, name, compiled):
    """It is stopped in the middle of an epoch and between the batches of one optimizer step."""
    assert_resumes(tmp_path, lambda: OPTIONS[name]() | {"compile": compiled, "batch_size": 6}, 7)


def test_the_default_is_what_it_was():
    plain, chosen = (outcome(run(trainer(optimizer=each))) for each in (None, torch.optim.Adam))
    for name, value in plain[0].items():
        torch.testing.assert_close(value, chosen[0][name], rtol=1e-10, atol=1e-12)


def test_another_optimizer_on_resume_is_refused(tmp_path):
    run(trainer(checkpoint=tmp_path / "c", epochs=1, optimizer=SGD))
    with pytest.raises(dv.CheckpointError, match=r"optimizer.kind was 'torch.optim.sgd.SGD'"):
        trainer(checkpoint=tmp_path / "c", resume=True, optimizer=RMSprop)


# Several models

OF_MANY = {
    "default": dict,
    "AdamW": lambda: {
        "optimizer": partial(AdamW, weight_decay=0.1, betas=(0.8, 0.9)),
        "parameter_options": {"*decoder*": {"lr": 0.001}},
    },
    "pyro": lambda: {"optimizer": pyro.optim.Adam({"lr": 0.01, "eps": 1e-4}, {"clip_norm": 0.5})},
    "steps": lambda: {"schedule": partial(lr_scheduler.StepLR, step_size=2, gamma=0.3)},
    "cycle": lambda: {"schedule": lambda each: lr_scheduler.OneCycleLR(each, 0.05, total_steps=6)},
    "plateau": lambda: {"schedule": partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5)},
    "averaged": lambda: {"ema": 0.7},
    "averaged, not validated": lambda: {"ema": 0.7, "validation": None},
    "frozen": lambda: {"freeze": ["*encoder*bias", "*decoder*weight"]},
    "stopped, averaged": lambda: {
        "ema": 0.7,
        "callbacks": [lambda run: run.stop("enough") if run.number in (None, 1) and run.epoch == 2 else None],
    },
}
OF_MANY["all"] = lambda: {**OF_MANY["AdamW"](), **OF_MANY["plateau"](), "ema": 0.7, "freeze": "*bias"}
MANY = [pytest.param(name, marks=[] if name == "all" else pytest.mark.slow) for name in OF_MANY]
QUIET = {"loss": dv.TraceDenoising_ELBO(), "batch_size": 10, "progress": False, "validation": HELD_OUT}


def alone(number, **options):
    pyro.clear_param_store()
    pair = Pair(number)
    rate = [0.02, 0.005][number]
    return dv.fit(
        pair.model, pair.guide, X, compile=True, seed=number, **(QUIET | {"learning_rate": rate} | options)
    )


def together(**options):
    pyro.clear_param_store()
    pairs = [(pair.model, pair.guide) for pair in map(Pair, range(2))]
    return dv.fit_many(pairs, X, **(QUIET | {"learning_rate": [0.02, 0.005]} | options))


def assert_same(found, expected):
    for key in ("train_bound", "validation_bound", "learning_rate"):
        pairs = zip(getattr(found.history, key), getattr(expected.history, key), strict=True)
        assert all(one == other or one == pytest.approx(other, rel=1e-10) for one, other in pairs), key
    assert found.history.best_epoch == expected.history.best_epoch
    for name, value in expected.trained.tensors().items():
        torch.testing.assert_close(found.trained.tensors()[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_several_models_are_updated_as_each_alone(name):
    found = together(epochs=3, **OF_MANY[name]())
    for number in (0, 1):
        options = OF_MANY[name]() | ({"callbacks": []} if (name, number) == ("stopped, averaged", 0) else {})
        assert_same(found[number], alone(number, epochs=3, **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_resumed_updates_of_several_models(name, tmp_path):
    once = {"batch_size": len(X)}  # one shape to record
    settings = OF_MANY[name]() | once | {"checkpoint": tmp_path / "c", "checkpoint_every": 1}

    def stop(run):
        if run.epoch == 2 and run.number == 0:
            signal.raise_signal(signal.SIGINT)

    expected = together(epochs=4, **OF_MANY[name](), **once)
    others = settings.pop("callbacks", [])
    with pytest.raises(dv.Stopped):
        together(epochs=4, callbacks=[*others, stop], **settings)
    resumed = together(epochs=4, callbacks=[*others, lambda run: None], resume=True, **settings)
    for pair in zip(resumed, expected, strict=True):
        assert_same(*pair)


@pytest.mark.slow
def test_a_parameter_without_gradient_among_several_models():
    pairs = list(map(Pair, range(2)))
    for pair in pairs:
        pair.decoder.spare = torch.nn.Parameter(torch.ones(3).double())
    found = dv.fit_many([(pair.model, pair.guide) for pair in pairs], X, epochs=2, **QUIET)
    assert_same(found[0], alone(0, epochs=2, learning_rate=1e-3))


@pytest.mark.parametrize("optimizer", [SGD, partial(AdamW, amsgrad=True)])
def test_several_models_take_adam_alone(optimizer):
    with pytest.raises(dv.InputError, match=r"optimizer: fit_many .* Adam or AdamW, without .*, got"):
        together(optimizer=optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizer": 3},
            "optimizer: expected a class of torch.optim, a function or a Pyro optimizer, got 3",
        ),
        ({"optimizer": SGD([torch.zeros(1)], lr=0.1)}, "optimizer: expected a class or a function"),
        ({"optimizer": lambda parameters: 3}, "optimizer: expected a torch.optim.Optimizer, got 3"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer: LBFGS evaluates the loss several times per step"),
        (
            {"optimizer": lambda p: SGD([torch.zeros(1)], lr=0.1)},
            "optimizer: expected an optimizer of all",
        ),
        ({"optimizer": partial(SGD, momentum=-1)}, "optimizer: ValueError: Invalid momentum value: -1"),
        ({"parameter_options": {"nix": {"lr": 1}}}, "parameter_options: no parameter matches 'nix'"),
        (
            {"parameter_options": {"net*": {"bets": 1}}},
            "parameter_options: Adam has no option 'bets'; .* 'betas'",
        ),
        ({"parameter_options": {"*": {"params": 1}}}, "parameter_options: .* leave out the option 'params'"),
        ({"parameter_options": 3}, "parameter_options: expected options by pattern of names, got 3"),
        ({"accumulate": 0}, "accumulate: expected"),
        ({"ema": 1.5}, "ema: expected"),
        (
            {"schedule": lr_scheduler.ExponentialLR(SGD([torch.zeros(1)], lr=0.1), 0.5)},
            "schedule: expected a function of the optimizer, got a ExponentialLR of another",
        ),
        ({"schedule": lambda epoch: 0.5 if epoch else 1.0}, r"schedule: .* got 0.5; .* \(epoch, epochs\)"),
        (
            {"schedule": lambda optimizer: lr_scheduler.StepLR(SGD([torch.zeros(1)], lr=0.1), 1)},
            "schedule: it belongs to another optimizer",
        ),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(dv.InputError, match=message):
        noiseless(**options)


def unfreezing(at=1):
    """Return a callback that lets the shift require a gradient after some epochs, also in a resumed run."""

    class Unfreezing(dv.Callback):
        def start(self, run):
            self.epoch(run)

        def epoch(self, run):
            for name, leaf in run.parameters.items():
                leaf.requires_grad_("shift" not in name or run.epoch >= at)

    return Unfreezing()


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_callback_freezes_at_first_is_trained_once_it_requires_a_gradient(compiled):
    pair, _ = noiseless(callbacks=[unfreezing()], compile=compiled)
    steps = []

    def after(other):
        steps.append(0)
        other.shift.requires_grad_(len(steps) >= 4)  # after the first epoch of four steps

    def make(other):
        other.shift.requires_grad_(False)
        return torch.optim.Adam(other.parameters(), lr=0.01)

    expected = by_hand(make, after=after)
    assert not torch.equal(expected["shift.weight"], Noiseless().shift.weight)
    assert_weights(pair, expected)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
@pytest.mark.parametrize("stop_at", [3, 12])
def test_a_run_that_unfreezes_parameters_resumes(tmp_path, stop_at):
    class Decoder(dv.Callback):
        def start(self, run):
            self.epoch(run)

        def epoch(self, run):
            for name, leaf in run.parameters.items():
                leaf.requires_grad_("decoder" not in name or run.epoch >= 2)

    assert_resumes(tmp_path, lambda: {"callbacks": [Decoder()]}, stop_at)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
def test_a_parameter_that_requires_a_gradient_too_late_is_refused():
    pairs = [Pair(0), Pair(1)]
    for pair in pairs:
        pair.decoder.requires_grad_(False)

    def unfreeze(run):
        pairs[1].decoder.requires_grad_(True)

    message = "parameter '.*decoder.weight' requires a gradient now, but did not when training began"
    with pytest.raises(dv.InputError, match=message):
        run(trainer(pairs[1], callbacks=[unfreeze]))
    pairs[1].decoder.requires_grad_(False)
    with pytest.raises(dv.InputError, match=message):
        dv.fit_many([(pair.model, pair.guide) for pair in pairs], X, callbacks=[unfreeze], **QUIET)


def decaying(optimizer):
    """Return a schedule that changes rate, betas and weight decay in every epoch."""

    class Decaying(lr_scheduler.LRScheduler):
        def step(self, epoch=None):
            count = self._step_count = getattr(self, "_step_count", 0) + 1
            for group in optimizer.param_groups:
                group |= {"lr": 0.01 / count, "betas": (0.9 - 0.1 * count, 0.99), "weight_decay": 0.1 * count}

    return Decaying(optimizer)


@pytest.mark.parametrize("kind", [torch.optim.Adam, AdamW])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=4),
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.001, 0.05, step_size_up=2),
        decaying,
    ],
)
def test_schedules_of_betas_and_decay_are_followed_without_another_compilation(kind, schedule):
    pair, made = noiseless(optimizer=kind, schedule=schedule, compile=True)
    assert_weights(pair, by_hand(lambda pair: kind(pair.parameters(), lr=0.01), scheduler=schedule))
    assert [len(steps) for steps in made._steps.compiled._steps.values()] == [1]


def test_several_models_follow_a_schedule_of_betas_without_another_compilation(monkeypatch):
    from pyro_dvae.training.batched_steps import BatchedSteps

    built, build = [], BatchedSteps._build
    monkeypatch.setattr(BatchedSteps, "_build", lambda self, batch: built.append(0) or build(self, batch))
    options = {"schedule": partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=6), "epochs": 3}
    options |= {"batch_size": len(X)}
    found = together(**options)
    assert len(built) == 1
    assert_same(found[1], alone(1, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameter_options": {"*": {"lr": "a"}}}, "optimizer, parameter_options: lr: expected"),
        ({"parameter_options": {"*": {"lr": -1.0}}}, "lr"),
        ({"ema": 1.0}, "ema: expected a decay below 1"),
    ],
)
def test_a_rate_or_an_average_that_cannot_be(options, message):
    with pytest.raises(dv.InputError, match=message):
        noiseless(optimizer=SGD, **options)


def test_an_optimizer_without_a_rate(tmp_path):
    def options():
        return {"optimizer": pyro.optim.AdagradRMSProp({"eta": 0.1}), "metrics": tmp_path / "m.jsonl"}

    run(trainer(checkpoint=tmp_path / "c", epochs=2, **options()))
    resumed = run(trainer(checkpoint=tmp_path / "c", resume=True, **options()))
    assert all(map(math.isnan, resumed.history.learning_rate))
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == [None] * 4
    assert outcome(resumed)[0].keys() == outcome(run(trainer(**options())))[0].keys()


def test_a_rate_function_by_name_resumes_and_another_does_not(tmp_path):
    def half(epoch):
        return 0.5**epoch

    def third(epoch):
        return 3.0**-epoch

    assert_resumes(
        tmp_path, lambda: {"schedule": partial(lr_scheduler.LambdaLR, lr_lambda=[half])}, stop_at=7
    )
    other = partial(lr_scheduler.LambdaLR, lr_lambda=[third])
    with pytest.raises(dv.CheckpointError, match=r"schedule.arguments was .*half.*, is now .*third"):
        trainer(checkpoint=tmp_path / "run.safetensors", resume=True, schedule=other)


def test_a_schedule_of_schedules_with_milestones_resumes(tmp_path):
    def schedule(optimizer):
        parts = [lr_scheduler.ConstantLR(optimizer, 0.1, 1), lr_scheduler.MultiStepLR(optimizer, [1, 2])]
        return lr_scheduler.SequentialLR(optimizer, parts, [1])

    assert_resumes(tmp_path, lambda: {"schedule": schedule}, stop_at=7)


def test_a_schedule_of_another_length_is_refused_on_resume(tmp_path):
    def cosine(length):
        return lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=length)

    run(trainer(checkpoint=tmp_path / "c", epochs=2, schedule=cosine(2)))
    with pytest.raises(dv.CheckpointError, match="schedule: T_max was 2, is now 4"):
        trainer(checkpoint=tmp_path / "c", epochs=4, resume=True, schedule=cosine(4))
    free = {"resume": True, "may_change": ("epochs", "schedule")}
    longer = run(trainer(checkpoint=tmp_path / "c", epochs=4, schedule=cosine(4), **free))
    assert longer._run.update._schedule.T_max == 4
    run(trainer(checkpoint=tmp_path / "c", epochs=4, schedule=cosine(4), **free))


def test_milestones_are_compared_also_within_a_schedule_of_schedules(tmp_path):
    def schedule(*milestones):
        def make(optimizer):
            parts = [lr_scheduler.ConstantLR(optimizer, 0.1, 1)]
            parts.append(lr_scheduler.MultiStepLR(optimizer, milestones))
            return lr_scheduler.SequentialLR(optimizer, parts, [1])

        return make

    run(trainer(checkpoint=tmp_path / "c", epochs=2, schedule=schedule(1, 2)))
    with pytest.raises(dv.CheckpointError, match=r"schedule: milestones was .*, is now"):
        trainer(checkpoint=tmp_path / "c", epochs=4, resume=True, schedule=schedule(1, 3))
    run(trainer(checkpoint=tmp_path / "c", epochs=4, resume=True, schedule=schedule(1, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": dv.TraceDenoising_ELBO(num_particles=2)}, "loss.num_particles was 1, is now 2"),
        ({"loss": dv.TraceDenoising_ELBO(kl_weight=0.5)}, "loss.kl_weight was 1.0, is now 0.5"),
        ({"loss": dv.TraceDenoisingIWAE_ELBO(num_particles=7)}, "loss.kind was .*, is now .*IWAE"),
        ({"transform": lambda x: 1 - x}, "transform was 'nothing', is now .*lambda"),
    ],
)
def test_another_loss_or_transform_on_resume_is_refused(tmp_path, options, message):
    run(trainer(checkpoint=tmp_path / "c", epochs=1))
    with pytest.raises(dv.CheckpointError, match=message):
        trainer(checkpoint=tmp_path / "c", resume=True, **options)
    trainer(checkpoint=tmp_path / "c", resume=True, may_change=("epochs", "loss", "transform"), **options)


class Tempered(dv.TraceDenoising_ELBO):
    """A user's bound: its argument follows the epoch, and it has an attribute called schedule."""

    def __init__(self, level=0.0, rates=(1, 2), schedule=lambda epoch: epoch / 10, **kwargs):
        self.level, self.rates, self.schedule = level, rates, schedule
        super().__init__(**kwargs)

    def set_epoch(self, epoch):
        self.level = self.schedule(epoch)


def test_a_users_bound_with_a_schedule_resumes_also_as_the_same_object(tmp_path):
    loss = Tempered()
    run(trainer(checkpoint=tmp_path / "c", epochs=2, loss=loss))
    assert loss.level == 0.1
    run(trainer(checkpoint=tmp_path / "c", resume=True, loss=loss))
    with pytest.raises(dv.CheckpointError, match=r"loss.rates was \[1, 2\], is now \[3, 4\]"):
        trainer(checkpoint=tmp_path / "c", resume=True, loss=Tempered(rates=(3, 4)))


class Shift:
    def __call__(self, x, by=None):
        return x + 1


def test_functions_and_objects_are_compared_without_their_addresses(tmp_path):
    def options():
        return {
            "transform": partial(Shift(), by=object()),
            "schedule": partial(lr_scheduler.StepLR, step_size=1),
        }

    run(trainer(checkpoint=tmp_path / "c", epochs=1, **options()))
    run(trainer(checkpoint=tmp_path / "c", resume=True, **options()))


def test_many_resume_from_a_checkpoint_that_does_not_name_the_loss(tmp_path, monkeypatch):
    from pyro_dvae.training.settings import Settings

    described, once = Settings.described, {"batch_size": len(X), "checkpoint": tmp_path / "c"}
    with monkeypatch.context() as patch:

        def earlier(self, rate):
            found = described(self, rate)
            return {name: found[name] for name in found if name not in ("loss", "transform")}

        patch.setattr(Settings, "described", earlier)
        together(epochs=1, **once)
    together(epochs=2, resume=True, **once)
    with pytest.raises(dv.CheckpointError, match=r"loss.num_particles was 1, is now 2"):
        together(epochs=3, resume=True, **(once | {"loss": dv.TraceDenoising_ELBO(num_particles=2)}))


def test_a_number_of_a_bound_that_changes_by_epoch_is_compared_as_its_schedule(tmp_path):
    def bound(end):
        return dv.TraceSemiImplicit_ELBO(num_mixture=dv.LinearSchedule(1, end, 4))

    loss = bound(5)
    run(trainer(checkpoint=tmp_path / "c", epochs=2, loss=loss))
    with pytest.raises(dv.CheckpointError, match=r"loss\._schedule\.\w+ was 5.*, is now 6"):
        trainer(checkpoint=tmp_path / "c", resume=True, loss=bound(6))
    run(trainer(checkpoint=tmp_path / "c", resume=True, loss=loss))


def test_many_models_whose_plate_has_more_rows_than_a_batch():
    """The plate draws places of rows, which such a model does not read: steps are those of ``fit``."""

    def pair(number):
        center = torch.nn.Module()
        center.mean = torch.nn.Parameter(torch.full((X.shape[1],), float(number)))

        def model(x):
            pyro.module("center", center)
            with pyro.plate("data", len(X), subsample_size=len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(center.mean + z[..., None], 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(X), subsample_size=len(x)):
                pyro.sample("z", dist.Normal(x.mean(-1), 0.5))

        return model, guide

    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 2, "batch_size": 5, "progress": False}
    together = dv.fit_many([pair(0), pair(1)], X, seeds=[3, 4], **options)
    for number, found in enumerate(together):
        pyro.clear_param_store()
        alone = dv.fit(*pair(number), X, seed=3 + number, compile=True, **options)
        assert found.history.train_bound == pytest.approx(alone.history.train_bound, rel=1e-6)
