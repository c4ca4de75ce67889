"""Settings that ``may_change`` on resume: the new ones count from the first step on."""

from functools import partial

import pyro
import pytest
import torch
from small_runs import HELD_OUT, Noiseless, Pair, X, run, trainer
from torch.optim import SGD, Adam, AdamW, lr_scheduler

import pyro_dvae as dv
from pyro_dvae.training import Stopped
from pyro_dvae.training.epochs import epoch_order

pytestmark = pytest.mark.usefixtures("interpreted")

COSINE = partial(lr_scheduler.CosineAnnealingLR, T_max=4)


def resumed(path, before, after, may_change, epochs=(3, 6), make=Noiseless):
    """Return the pair and the trainer of a run that is resumed with other settings."""
    common = {"checkpoint": path / "c", "validation": None, "batch_size": 6}
    run(trainer(make(), epochs=epochs[0], **common, **before))
    pair = make()
    options = common | {"resume": True, "may_change": ("epochs", may_change)}
    return pair, run(trainer(pair, epochs=epochs[1], **options, **after))


def by_hand(make, change, epochs=(3, 6)):
    """Return the weights of torch's own loop, whose optimizer changes after some epochs."""
    pair = Noiseless()
    optimizer = make(pair.parameters())
    for epoch in range(epochs[1]):
        if epoch == epochs[0]:
            change(optimizer)
        for rows in epoch_order(len(X), 6, 0, epoch).split(6):
            optimizer.zero_grad()
            pair.loss(X[rows]).backward()
            optimizer.step()
    return dict(pair.named_parameters())


def assert_weights(pair, expected):
    for name, value in pair.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "may_change", "make", "changed"),
    [
        ({"learning_rate": 0.01}, {"learning_rate": 0.03}, "learning_rate", Adam, {"lr": 0.03}),
        (
            {"optimizer": AdamW, "learning_rate": 0.01},
            {"optimizer": AdamW, "learning_rate": 0.03},
            "learning_rate",
            AdamW,
            {"lr": 0.03},
        ),
        (
            {"optimizer": partial(AdamW, weight_decay=0.0)},
            {"optimizer": partial(AdamW, weight_decay=5.0)},
            "optimizer",
            partial(AdamW, weight_decay=0.0),
            {"weight_decay": 5.0},
        ),
        (
            {"optimizer": partial(SGD, momentum=0.9)},
            {"optimizer": partial(SGD, momentum=0.5)},
            "optimizer",
            partial(SGD, momentum=0.9),
            {"momentum": 0.5},
        ),
    ],
)
def test_new_options_of_the_optimizer(tmp_path, before, after, may_change, make, changed, compiled):
    rates = {"learning_rate": 0.01, "compile": compiled}
    pair, _ = resumed(tmp_path, rates | before, rates | after, may_change)
    expected = by_hand(partial(make, lr=0.01), lambda optimizer: optimizer.param_groups[0].update(changed))
    assert_weights(pair, expected)


def test_new_options_of_some_parameters(tmp_path):
    options = {"learning_rate": 0.01, "optimizer": SGD}
    pair, _ = resumed(
        tmp_path, options, options | {"parameter_options": {"shift*": {"lr": 0.0}}}, "optimizer"
    )
    three = dict(
        run(trainer(one := Noiseless(), epochs=3, batch_size=6, validation=None, **options)).parameters
    )
    assert torch.equal(pair.shift.weight, three["shift$$$weight"])
    assert not torch.equal(pair.net.weight, one.net.weight)


def test_another_kind_of_optimizer_begins_with_new_moments(tmp_path):
    options = {"learning_rate": 0.01}
    pair, _ = resumed(tmp_path, options, options | {"optimizer": SGD}, "optimizer")
    first = Noiseless()
    run(trainer(first, epochs=3, batch_size=6, validation=None, **options))
    optimizer = SGD(first.parameters(), lr=0.01)
    for epoch in range(3, 6):
        for rows in epoch_order(len(X), 6, 0, epoch).split(6):
            optimizer.zero_grad()
            first.loss(X[rows]).backward()
            optimizer.step()
    assert_weights(pair, dict(first.named_parameters()))


def rates(epochs, schedule, learning_rate=0.01, optimizer=None):
    """Return the learning rates of an uninterrupted run."""
    options = {"learning_rate": learning_rate, "optimizer": optimizer, "validation": None}
    return run(trainer(Noiseless(), epochs=epochs, schedule=schedule, **options)).history.learning_rate


@pytest.mark.parametrize("optimizer", [None, AdamW])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (COSINE, "constant"),
        ("constant", COSINE),
        (COSINE, "step"),
        (COSINE, partial(lr_scheduler.StepLR, step_size=2)),
        (partial(lr_scheduler.LinearLR, start_factor=0.1), partial(lr_scheduler.LinearLR, start_factor=0.5)),
        ("step", "paper"),
    ],
)
def test_another_schedule_goes_on_as_if_used_from_the_beginning(tmp_path, before, after, optimizer):
    options = {"learning_rate": 0.01, "optimizer": optimizer}
    _, made = resumed(tmp_path, options | {"schedule": before}, options | {"schedule": after}, "schedule")
    first, then = rates(3, before, optimizer=optimizer), rates(6, after, optimizer=optimizer)
    if getattr(before, "func", 0) is getattr(after, "func", 1):
        then = then[:3] + made.history.learning_rate[3:]  # the same kind continues from its present rate
        assert made._run.update._schedule.start_factor == 0.5
    assert made.history.learning_rate == pytest.approx(first + then[3:], rel=1e-12)


@pytest.mark.parametrize("schedule", ["step", COSINE])
def test_a_new_rate_keeps_the_factor_of_the_schedule(tmp_path, schedule):
    before, after = ({"learning_rate": rate, "schedule": schedule} for rate in (0.01, 0.1))
    _, made = resumed(tmp_path, before, after, "learning_rate", epochs=(3, 4))
    factors = [rate / 0.1 for rate in rates(4, schedule, 0.1)]
    short = rates(3, schedule)
    assert made.history.learning_rate == pytest.approx([*short, 0.1 * factors[3]], rel=1e-9)


def test_one_cycle_with_another_peak(tmp_path):
    def cycle(peak):
        return partial(lr_scheduler.OneCycleLR, max_lr=peak, total_steps=8)

    options = {"optimizer": AdamW, "learning_rate": 0.01}
    before, after = (options | {"schedule": cycle(peak)} for peak in (0.1, 0.2))
    _, made = resumed(tmp_path, before, after, "schedule")
    expected = [*rates(3, cycle(0.1), optimizer=AdamW), *rates(6, cycle(0.2), optimizer=AdamW)[3:]]
    # The rate of the resumed epoch is the saved one, in proportion to the new start of the cycle.
    assert made.history.learning_rate == pytest.approx(expected, rel=1e-9)


def test_another_schedule_of_a_pyro_optimizer_is_refused(tmp_path):
    from pyro.optim import ExponentialLR, StepLR

    common = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}}
    before, after = ExponentialLR(common | {"gamma": 0.5}), StepLR(common | {"step_size": 2})
    with pytest.raises(dv.CheckpointError, match=r"schedule: was .*ExponentialLR.*, is now .*StepLR"):
        resumed(tmp_path, {"optimizer": before}, {"optimizer": after}, "optimizer")


def test_two_schedules_are_refused():
    from pyro.optim import ExponentialLR

    choice = ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5})
    for schedule in ("step", COSINE, lambda epoch, epochs: 0.0):
        with pytest.raises(dv.InputError, match="schedule: the Pyro optimizer has its own"):
            trainer(optimizer=choice, schedule=schedule)
    trainer(optimizer=choice, schedule="constant")


def test_averages_that_begin_on_resume_begin_with_the_restored_weights(tmp_path):
    options = {"learning_rate": 0.05, "optimizer": SGD}
    three = run(trainer(Noiseless(), epochs=3, batch_size=6, validation=None, **options))
    start = {name: leaf.detach().clone() for name, leaf in three.parameters.items()}
    _, made = resumed(tmp_path, options, options | {"ema": 0.9}, "ema", epochs=(3, 4))
    average = start
    pair = Noiseless()
    one = run(trainer(pair, epochs=3, batch_size=6, validation=None, **options))
    optimizer = SGD(pair.parameters(), lr=0.05)
    for rows in epoch_order(len(X), 6, 0, 3).split(6):
        optimizer.zero_grad()
        pair.loss(X[rows]).backward()
        optimizer.step()
        average = {name: 0.9 * average[name] + 0.1 * leaf.detach() for name, leaf in one.parameters.items()}
    for name, value in made._run.update.average.items():
        torch.testing.assert_close(value, average[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 8), ("seed", 3)])
def test_another_order_of_the_rows_begins_the_epoch_again(tmp_path, name, value):
    """Each row is seen once in the resumed epoch; its place in the old order means nothing in the new one."""
    options = {"checkpoint": tmp_path / "c", "batch_size": 6, "epochs": 2}
    with pytest.raises(Stopped):
        run(trainer(Noiseless(), **options), stop_at=2)
    options |= {name: value, "resume": True, "may_change": (name,)}
    with pytest.warns(UserWarning, match=rf"^{name} has changed, so epoch 1 starts again with its first"):
        made = trainer(Noiseless(), **options)
    seen = [torch.cat([made.step(x) * 0 + x for x in epoch]) for epoch in made]
    for rows in seen:
        assert torch.equal(rows.sort(0).values, X.sort(0).values)


def test_misspelt_names_that_may_change_are_refused(tmp_path):
    options = {"checkpoint": tmp_path / "c", "config": {"noise": 0.1, "net": {"width": 3}}, "epochs": 2}
    with pytest.raises(dv.InputError, match=r"^may_change: expected a list of names, .* got 'clip_norm'$"):
        trainer(Noiseless(), may_change="clip_norm", **options)
    run(trainer(Noiseless(), **options))
    for name in ("clip_norms", "net.widths"):
        with pytest.raises(
            dv.InputError, match=f"^may_change: unknown name '{name}' .did you mean '{name[:-1]}'"
        ):
            trainer(Noiseless(), resume=True, may_change=(name,), **options)
    names = ("epochs", "noise", "net.width", "checkpoint_every", "freeze", "device")
    options |= {"epochs": 3, "config": {"net": {"width": 5}}, "device": "cpu"}
    run(trainer(Noiseless(), resume=True, may_change=names, **options))


def test_another_option_of_an_optimizer_is_refused_beside_a_new_rate(tmp_path):
    before, after = ({"optimizer": partial(AdamW, weight_decay=decay)} for decay in (0.0, 5.0))
    with pytest.raises(dv.CheckpointError, match=r"optimizer.groups was .*'weight_decay': 0.0"):
        resumed(tmp_path, before, after | {"learning_rate": 0.1}, "learning_rate")


@pytest.mark.parametrize("first", ["", "shift*"])
@pytest.mark.parametrize("compiled", [False, True])
def test_other_frozen_parameters(tmp_path, first, compiled):
    """Parameters that begin to train have new moments; those that are frozen stay as they are."""
    then = "" if first else "shift*"
    options = {"learning_rate": 0.01, "compile": compiled, "ema": 0.9, "optimizer": Adam}
    before, after = (options | ({"freeze": each} if each else {}) for each in (first, then))
    pair, _ = resumed(tmp_path, before, after, "freeze")
    expected = Noiseless()
    optimizer = Adam(expected.parameters(), lr=0.01)
    for epoch in range(6):
        expected.shift.requires_grad_((epoch < 3) == (not first))
        for rows in epoch_order(len(X), 6, 0, epoch).split(6):
            optimizer.zero_grad()
            expected.loss(X[rows]).backward()
            optimizer.step()
    assert_weights(pair, dict(expected.named_parameters()))


@pytest.mark.parametrize("after", [1, 2])
def test_fewer_batches_in_a_step_use_the_gradients_at_once(tmp_path, after):
    """Three batches are gathered; the fourth one completes the step, with the gradient of all four."""
    options = {"checkpoint": tmp_path / "c", "batch_size": 6, "epochs": 1, "optimizer": SGD}
    with pytest.raises(Stopped):
        run(trainer(Noiseless(), accumulate=4, **options), stop_at=3)
    pair, whole = Noiseless(), Noiseless()
    run(trainer(pair, accumulate=after, resume=True, may_change=("accumulate",), **options))
    run(trainer(whole, accumulate=4, **options))
    assert_weights(pair, dict(whole.named_parameters()))


@pytest.mark.parametrize("name", ["data", "validation"])
def test_models_trained_together_do_not_continue_with_other_data(tmp_path, name):
    def fit(rows, held_out, **options):
        pyro.clear_param_store()
        pairs = [(pair.model, pair.guide) for pair in (Pair(0), Pair(1))]
        common = {"loss": dv.TraceDenoising_ELBO(), "checkpoint": tmp_path / "c", "progress": False}
        return dv.fit_many(pairs, rows, validation=held_out, **common, **options)

    given = {"data": X, "validation": HELD_OUT}
    fit(*given.values(), epochs=1)
    with pytest.raises(dv.CheckpointError, match=rf"from other data: {name}\[0\].rows was '"):
        fit(*(given | {name: given[name] + 1}).values(), epochs=2, resume=True)
    assert len(fit(*given.values(), epochs=2, resume=True)[1].history.epochs) == 2


@pytest.mark.parametrize("many", [False, True])
def test_another_constant_level_is_told(tmp_path, many):
    def train(epochs, rate, resume):
        torch.manual_seed(0)
        networks = (
            dv.networks.GaussianEncoder(X.shape[1], 2, (4,)),
            dv.networks.GaussianDecoder(X.shape[1], 2, (4,)),
        )
        pairs = [dv.DVAE(*networks, dv.Masking(rate))]
        options = {"loss": dv.TraceDenoising_ELBO(), "epochs": epochs, "resume": resume, "progress": False}
        options["checkpoint"] = tmp_path / "c"
        if many:
            dv.fit_many([(pair.model, pair.guide) for pair in pairs], X.float(), **options)
        else:
            dv.fit(pairs[0].model, pairs[0].guide, X.float(), compile=False, **options)
        return pairs[0]

    train(1, 0.1, False)
    train(2, 0.1, True)  # a warning would be an error
    with pytest.warns(UserWarning, match=r"its rate of 0\.1 continues, not 0\.4"):
        pair = train(3, 0.4, True)
    assert float(pair.guide.corruption.levels()[0].value) == pytest.approx(0.1)
