"""Callbacks: hooks, states, early stopping, logs; in one run and in many."""

import csv
import io
import random
import threading

import numpy as np
import pyro
import pytest
import torch
from matplotlib.image import imread
from small_runs import HELD_OUT, Pair, X, assert_same, outcome, run, trainer

import pyro_dvae as dv
from pyro_dvae.training import Stopped

pytestmark = pytest.mark.usefixtures("interpreted")


class Recorder(dv.Callback):
    """Records its calls, and keeps a tensor and a count in the checkpoint."""

    def __init__(self):
        self.calls, self.sum, self.count = [], torch.zeros(2, dtype=torch.float64), 0

    def start(self, run):
        self.calls.append(("start", run.epoch, run.step))

    def step(self, run):
        self.count += 1
        self.sum = self.sum + torch.rand(2, dtype=torch.float64) + run.loss

    def epoch(self, run):
        self.calls.append(("epoch", run.epoch, run.step))

    def checkpoint(self, run):
        self.calls.append(("checkpoint", run.epoch, run.step))

    def end(self, run):
        self.calls.append(("end", run.epoch, run.step))

    def state_dict(self):
        return {"sum": self.sum, "count": self.count}

    def load_state_dict(self, state):
        self.sum, self.count = state["sum"], state["count"]


def test_the_hooks_in_their_order(tmp_path):
    seen, recorder = [], Recorder()
    made = trainer(
        epochs=2, checkpoint=tmp_path / "c", callbacks=[recorder, lambda run: seen.append(run.epoch)]
    )
    run(made)
    assert recorder.calls == [
        ("start", 0, 0),
        *(("epoch", 1, 5), ("checkpoint", 1, 5)),
        *(("epoch", 2, 10), ("checkpoint", 2, 10)),
        ("end", 2, 10),
    ]
    assert (seen, recorder.count) == ([1, 2], 10)


def test_callbacks_change_nothing():
    class Noisy(dv.Callback):
        def start(self, run):
            torch.rand(3)

        def step(self, run):
            random.random()
            torch.rand(3)

        def epoch(self, run):
            run.fitted().encode(X)
            run.fitted().sample(2)

    assert_same(outcome(run(trainer(callbacks=[Noisy()]))), outcome(run(trainer())))


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_a_state_continues_bit_for_bit(tmp_path, stop_at):
    whole = Recorder()
    run(trainer(callbacks=[whole]))
    first, second = Recorder(), Recorder()
    with pytest.raises(Stopped):
        run(trainer(checkpoint=tmp_path / "c", callbacks=[first]), stop_at)
    assert first.calls[-1] == ("end", (stop_at - 1) // 5, stop_at)
    run(trainer(checkpoint=tmp_path / "c", resume=True, callbacks=[second]))
    assert second.count == whole.count == 20
    assert torch.equal(second.sum, whole.sum)
    assert second.calls[0] == ("start", (stop_at - 1) // 5, stop_at)


def falling(epochs=30):
    """Validation bounds that rise for four epochs and then fall, with one late rise."""
    bounds = [float(min(n, 8 - n)) for n in range(epochs)]
    bounds[12] = 3.5
    return bounds


def with_bounds(bounds, **options):
    left = list(bounds)
    return trainer(validation=None, evaluate=lambda: left.pop(0), epochs=len(bounds), **options)


def test_early_stopping_changes_nothing_up_to_the_stop():
    seen = []

    def note(run):
        seen.append({name: leaf.detach().clone() for name, leaf in run.parameters.items()})

    whole = run(with_bounds(falling(), callbacks=[note]))
    made = run(with_bounds(falling(), callbacks=[note, dv.EarlyStopping(patience=5)]))
    assert made.history.epochs == list(range(1, 11))  # the best is the fifth, and five more
    assert made.history.best_epoch == 5
    assert len(seen) == 30 + 10
    for one, other in zip(seen[:10], seen[30:], strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert made.history.train_bound == whole.history.train_bound[:10]
    for name, value in whole.fitted().best.items():
        assert torch.equal(value, made.fitted().best[name]), name


def test_early_stopping_counts_a_small_rise_as_none():
    bounds = [0.0, 1.0, 1.05, 1.1, 1.15, 3.0, 3.0, 3.0, 3.0]
    made = run(with_bounds(bounds, callbacks=[dv.EarlyStopping(3, min_rise=0.2)]))
    assert made.history.epochs == [1, 2, 3, 4, 5]
    made = run(with_bounds(bounds, callbacks=[dv.EarlyStopping(3)]))
    assert made.history.epochs == list(range(1, 10))


def test_a_run_stopped_early_is_saved_and_resumes_with_more_patience(tmp_path):
    path, stops = tmp_path / "c", [dv.EarlyStopping(patience=5)]
    run(with_bounds(falling(), checkpoint=path, checkpoint_every=100, callbacks=stops))
    again = run(with_bounds(falling()[10:] + [0.0] * 10, checkpoint=path, resume=True, callbacks=stops))
    assert len(again.history.epochs) == 10
    longer = [dv.EarlyStopping(patience=9)]
    made = run(with_bounds(falling()[10:] + [0.0] * 10, checkpoint=path, resume=True, callbacks=longer))
    assert len(made.history.epochs) == 14


def test_early_stopping_without_validation():
    with pytest.raises(dv.InputError, match=r"callbacks: EarlyStopping needs a validation bound"):
        run(trainer(validation=None, callbacks=[dv.EarlyStopping()]))


def test_any_function_can_stop_a_run(capsys):
    def stop(run):
        if run.epoch == 2:
            run.stop("that will do")

    made = run(trainer(callbacks=[stop], progress=None))
    assert made.history.epochs == [1, 2]
    assert "stopped after epoch 2: that will do" in capsys.readouterr().err


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_log_is_the_history_also_after_a_resume(tmp_path):
    path, log = tmp_path / "c", tmp_path / "log.csv"
    with pytest.raises(Stopped):
        run(trainer(checkpoint=path, callbacks=[dv.CSVLog(log)]), 12)
    with open(log, "a") as file:
        file.write("9,of a run that was killed\n")
    history = run(trainer(checkpoint=path, resume=True, callbacks=[dv.CSVLog(log)])).history
    lines = read(log)
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3, 4]
    assert [float(line["train_bound"]) for line in lines] == history.train_bound
    assert [float(line["validation_bound"]) for line in lines] == history.validation_bound


def test_a_csv_log_that_cannot_be_written_is_one_line(tmp_path):
    log = tmp_path / "log.csv"

    def spoil(run):
        log.unlink()
        log.mkdir()

    with pytest.raises(dv.InputError, match=r"output: cannot write .*log\.csv: Is a directory"):
        run(trainer(callbacks=[dv.CSVLog(log), spoil]))


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


def test_tensorboard_holds_curves_pictures_and_histograms(tmp_path):
    board = dv.TensorBoard(tmp_path / "tb", images=X[:3].sigmoid(), image_shape=(2, 2), every=2)
    made = run(trainer(callbacks=[board]))
    assert_same(outcome(made), outcome(run(trainer())))
    found = events(tmp_path / "tb")
    curve = found.Scalars("train_bound")
    assert [each.step for each in curve] == [1, 2, 3, 4]
    assert [each.value for each in curve] == pytest.approx(made.history.train_bound, rel=1e-6)
    assert [each.step for each in found.Histograms("encoder/weight")] == [2, 4]
    picture = found.Images("reconstructions")[-1]
    assert (picture.step, picture.width, picture.height) == (4, 6, 4)


def test_pictures_of_other_values_have_their_range(tmp_path):
    images = 10 * X[:3]
    run(trainer(callbacks=[dv.TensorBoard(tmp_path / "tb", images=images, image_shape=(2, 2))]))
    content = events(tmp_path / "tb").Images("reconstructions")[-1].encoded_image_string
    low, high = images.min(), images.max()
    expected = np.concatenate(list(((images - low) / (high - low)).reshape(3, 2, 2).numpy()), axis=1)
    np.testing.assert_allclose(imread(io.BytesIO(content))[:2, :, 0], expected, atol=1 / 255)


def test_a_resumed_run_continues_its_curves(tmp_path):
    with pytest.raises(Stopped):
        run(trainer(checkpoint=tmp_path / "c", callbacks=[dv.TensorBoard(tmp_path / "tb")]), 12)
    board = dv.TensorBoard(tmp_path / "tb", histograms=False)
    run(trainer(checkpoint=tmp_path / "c", resume=True, callbacks=[board]))
    assert [each.step for each in events(tmp_path / "tb").Scalars("train_bound")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (3, "callbacks: expected a list of callbacks, got 3"),
        ([3], "callbacks: expected pyro_dvae.Callback objects or functions, got 3"),
        ([dv.EarlyStopping], "callbacks: expected pyro_dvae.Callback objects or functions, got"),
        ([lambda run: 1 / 0], r"callbacks\[0\]: ZeroDivisionError"),
    ],
)
def test_what_is_no_callback(callbacks, message):
    with pytest.raises(dv.InputError, match=message):
        run(trainer(callbacks=callbacks))


def test_a_state_that_cannot_be_saved(tmp_path):
    recorder = Recorder()
    recorder.state_dict = lambda: {"file": object()}
    with pytest.raises(dv.InputError, match="callbacks: a state_dict holds a object, which is not saved"):
        run(trainer(checkpoint=tmp_path / "c", callbacks=[recorder]))


def many(bounds, **options):
    pyro.clear_param_store()
    pairs = [Pair(0), Pair(1)]
    left = [list(each) for each in bounds]
    options = {"epochs": len(bounds[0]), "batch_size": 12, "progress": False} | options
    return dv.fit_many(
        [(pair.model, pair.guide) for pair in pairs],
        X,
        loss=dv.TraceDenoising_ELBO(max_plate_nesting=1),
        evaluate=lambda number: left[number].pop(0),
        **options,
    )


@pytest.mark.slow
def test_each_of_many_stops_for_itself(tmp_path):
    rising = [float(n) for n in range(8)]
    early = [0.0, 1.0, 0.5, 0.5, 0.5, 9.0, 9.0, 9.0]
    plain = many([early[:4], rising[:4]])
    seen = []
    stops = [
        dv.EarlyStopping(patience=2),
        dv.CSVLog(tmp_path / "log.csv"),
        lambda run: seen.append((run.number, run.epoch)),
    ]
    stopped = many([early, rising], callbacks=stops)
    assert [each.history.best_epoch for each in stopped] == [2, 8]
    assert [len(each.history.epochs) for each in stopped] == [4, 8]
    assert stopped[0].history.train_bound == plain[0].history.train_bound
    for name, value in plain[0].best.items():
        assert torch.equal(stopped[0].best[name], value), name
    whole = many([rising, rising])
    assert stopped[1].history.train_bound == whole[1].history.train_bound
    assert [int(line["epoch"]) for line in read(tmp_path / "log-0.csv")] == [1, 2, 3, 4]
    assert [epoch for number, epoch in seen if number == 1] == list(range(1, 9))


@pytest.mark.slow
def test_many_that_have_stopped_stay_so_after_a_resume(tmp_path):
    rising = [float(n) for n in range(8)]
    early = [0.0, 1.0, 0.5, 0.5, 0.5, 9.0, 9.0, 9.0]
    stops = [dv.EarlyStopping(patience=2)]
    whole = many([early, rising], callbacks=stops)
    many([early[:5], rising[:5]], callbacks=stops, checkpoint=tmp_path / "c")
    again = many(
        [early[5:] + [0.0] * 5, rising[5:] + [0.0] * 5],
        callbacks=stops,
        checkpoint=tmp_path / "c",
        resume=True,
    )
    assert len(again[0].history.epochs) == 4
    for one, other in zip(whole, again, strict=True):
        assert one.history.train_bound == other.history.train_bound
        for name, value in one.trained.tensors().items():
            assert torch.equal(value, other.trained.tensors()[name]), name


def test_validation_is_of_held_out_rows():
    seen = []
    run(
        trainer(
            callbacks=[lambda run: seen.append((run.validates, run.history.validation_bound[-1]))], epochs=1
        )
    )
    assert seen[0][0]
    assert seen[0][1] == pytest.approx(outcome(run(trainer(epochs=1)))[1]["validation_bound"][0])
    assert len(HELD_OUT) == 8


def test_a_run_ends_early_only_after_a_validation():
    left, options = [1.0, 0.5, 0.5], {"validation": None, "validate_every": 2, "epochs": 10}
    made = run(trainer(evaluate=lambda: left.pop(0), callbacks=[dv.EarlyStopping(1)], **options))
    assert made.history.epochs == [1, 2, 3, 4]  # the second validation is no better


def test_a_run_that_a_callback_has_stopped_stays_so_unless_it_has_more_epochs(tmp_path):
    def stop(run):
        if run.epoch == 2:
            run.stop("that will do")

    run(trainer(checkpoint=tmp_path / "c", callbacks=[stop]))
    again = run(trainer(checkpoint=tmp_path / "c", callbacks=[stop], resume=True))
    assert again.history.epochs == [1, 2]
    more = run(trainer(checkpoint=tmp_path / "c", callbacks=[stop], resume=True, epochs=6))
    assert more.history.epochs == list(range(1, 7))


def test_the_epoch_of_a_request_between_steps_is_validated():
    class Stopping(dv.Callback):
        def step(self, run):
            if run.step == 7:
                run.stop()

    made = run(trainer(validate_every=4, callbacks=[Stopping()]))
    assert [bound is None for bound in made.history.validation_bound] == [True, False]
    assert made.history.best_epoch == 2


def test_a_state_is_made_with_a_random_stream_of_its_own_and_named_in_errors(tmp_path):
    class Drawing(dv.Callback):
        def state_dict(self):
            torch.rand(3)
            return {"drawn": random.random()}

    plain, drawing = (
        outcome(run(trainer(checkpoint=tmp_path / name, callbacks=each)))
        for name, each in (("a", []), ("b", [Drawing()]))
    )
    assert_same(plain, drawing)

    class Broken(dv.Callback):
        def state_dict(self):
            return self.missing

    with pytest.raises(dv.InputError, match=r"callbacks\[1\]: AttributeError: 'Broken' object has no"):
        run(trainer(checkpoint=tmp_path / "c", callbacks=[Drawing(), Broken()]))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.array([1, 2])[::-1], np.array([2, 1])),
        (np.array(["x"]), "an array of <U1"),
        (np.longdouble(1), "a longdouble"),
        (np.datetime64("2020-01-01"), "a datetime64"),
        (torch.ones(2).to_sparse(), "a sparse tensor"),
    ],
)
def test_numbers_and_arrays_in_a_state(tmp_path, value, kept):
    class Keeping(dv.Callback):
        def state_dict(self):
            return {"value": value}

        def load_state_dict(self, state):
            self.value = state["value"]

    if isinstance(kept, str):
        with pytest.raises(dv.InputError, match=f"callbacks: a state_dict holds {kept}, which is not saved"):
            run(trainer(checkpoint=tmp_path / "c", epochs=1, callbacks=[Keeping()]))
        return
    run(trainer(checkpoint=tmp_path / "c", epochs=1, callbacks=[Keeping()]))
    again = Keeping()
    run(trainer(checkpoint=tmp_path / "c", resume=True, callbacks=[again]))
    assert np.array_equal(again.value, kept)


def test_a_killed_run_leaves_no_curve_behind(tmp_path):
    run(trainer(epochs=3, callbacks=[dv.TensorBoard(tmp_path / "tb")]))  # without any checkpoint
    run(trainer(epochs=2, callbacks=[dv.TensorBoard(tmp_path / "tb")]))
    assert [each.step for each in events(tmp_path / "tb").Scalars("train_bound")] == [1, 2]


def test_histograms_leave_out_what_is_not_finite(tmp_path):
    def spoil(run):
        with torch.no_grad():
            for name, leaf in run.parameters.items():
                leaf.fill_(torch.nan) if "encoder" in name else leaf[0].fill_(torch.inf)

    with pytest.raises(dv.DivergenceError):
        run(trainer(validation=None, callbacks=[spoil, dv.TensorBoard(tmp_path / "tb")]))
    names = events(tmp_path / "tb").Tags()["histograms"]
    assert sorted(names) == ["decoder/bias", "decoder/weight"]


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["step", "epoch"])
def test_what_a_callback_does_to_parameters_counts_also_for_many(hook):
    class Filling(dv.Callback):
        pass

    def fill(self, run):
        with torch.no_grad():
            run.parameters["decoder$$$bias"].mul_(0.5).add_(run.step / 10)

    setattr(Filling, hook, fill)
    rising = [float(n) for n in range(3)]
    plain, filled = (many([rising, rising], callbacks=each) for each in ([], [Filling()]))
    pyro.clear_param_store()
    pair = Pair(1)
    options = {"loss": dv.TraceDenoising_ELBO(max_plate_nesting=1), "seed": 1, "epochs": 3, "batch_size": 12}
    alone = dv.fit(pair.model, pair.guide, X, compile=True, progress=False, callbacks=[Filling()], **options)
    assert filled[1].history.train_bound == pytest.approx(alone.history.train_bound, rel=1e-9)
    assert filled[1].history.train_bound != pytest.approx(plain[1].history.train_bound, rel=1e-3)


def test_many_go_on_with_more_patience_if_all_stopped_together(tmp_path):
    bounds = [0.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    short, long = ({"callbacks": [dv.EarlyStopping(patience)]} for patience in (2, 4))
    stopped = many([bounds, bounds], checkpoint=tmp_path / "c", **short)
    assert [len(each.history.epochs) for each in stopped] == [4, 4]
    again = many([bounds[4:] * 2, bounds[4:] * 2], checkpoint=tmp_path / "c", resume=True, **long)
    assert [len(each.history.epochs) for each in again] == [6, 6]
    whole = many([bounds, bounds], **long)
    assert again[0].history.train_bound == whole[0].history.train_bound


def test_an_epoch_that_was_saved_after_a_request_to_stop_is_finished(tmp_path):
    class Stopping(dv.Callback):
        def step(self, run):
            if run.step == 7:
                run.stop()

    with pytest.raises(Stopped):
        run(trainer(checkpoint=tmp_path / "c", callbacks=[Stopping()]), stop_at=8)
    resumed = run(trainer(checkpoint=tmp_path / "c", callbacks=[Stopping()], resume=True))
    assert_same(outcome(resumed), outcome(run(trainer(callbacks=[Stopping()]))))
    assert resumed.history.epochs == [1, 2]


class AtCheckpoint(dv.Callback):
    def checkpoint(self, run):
        if run.epoch == 2:
            run.stop()


def test_a_request_after_saving_is_saved(tmp_path):
    options = {"checkpoint": tmp_path / "c", "checkpoint_every": 1, "callbacks": [AtCheckpoint()]}
    assert run(trainer(**options)).history.epochs == [1, 2]
    assert run(trainer(resume=True, **options)).history.epochs == [1, 2]


def test_a_request_after_saving_is_saved_for_many(tmp_path):
    options = {"checkpoint": tmp_path / "c", "checkpoint_every": 1, "callbacks": [AtCheckpoint()]}
    rising = [float(n) for n in range(4)]
    stopped = many([rising, rising], **options)
    again = many([rising, rising], resume=True, **options)
    assert [len(each.history.epochs) for each in (*stopped, *again)] == [2] * 4


class Freezing(dv.Callback):
    """Freezes the encoder's bias at a step or an epoch, in all models or in one."""

    def __init__(self, hook, at, number=None):
        self._hook, self._at, self._number = hook, at, number
        setattr(self, hook, self.freeze)

    def freeze(self, run):
        if getattr(run, self._hook) == self._at and self._number in (None, run.number):
            run.parameters["encoder$$$bias"].requires_grad_(False)

    def __deepcopy__(self, memo):
        return self


def test_a_hook_of_the_object_is_called():
    seen = []
    callback = dv.Callback()
    callback.epoch = lambda run: seen.append(run.epoch)
    run(trainer(callbacks=[callback]))
    assert seen == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:.*not registered in the param store:UserWarning")
def test_what_a_callback_froze_stays_frozen_after_a_resume(tmp_path):
    def options():
        return {"callbacks": [Freezing("epoch", 2)]}

    first = run(trainer(epochs=2, checkpoint=tmp_path / "c", **options()))
    bias = first.parameters["encoder$$$bias"].clone()
    again = run(trainer(epochs=4, checkpoint=tmp_path / "c", resume=True, **options()))
    assert torch.equal(again.parameters["encoder$$$bias"], bias)
    assert_same(outcome(again), outcome(run(trainer(epochs=4, **options()))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not registered in the param store:UserWarning")
def test_freezing_between_steps_counts_from_the_next_step_for_many():
    rising = [float(n) for n in range(3)]
    frozen = many([rising, rising], callbacks=[Freezing("step", 3)], epochs=3)
    pyro.clear_param_store()
    pair = Pair(1)
    options = {"loss": dv.TraceDenoising_ELBO(max_plate_nesting=1), "seed": 1, "epochs": 3, "batch_size": 12}
    frozen_alone = [Freezing("step", 3)]
    alone = dv.fit(pair.model, pair.guide, X, compile=True, progress=False, callbacks=frozen_alone, **options)
    assert frozen[1].history.train_bound == pytest.approx(alone.history.train_bound, rel=1e-9)
    with pytest.raises(dv.InputError, match=r"callbacks: expected the same frozen parameters in all models"):
        many([rising, rising], callbacks=[Freezing("epoch", 1, number=0)], epochs=3)


@pytest.mark.filterwarnings("ignore:.*not registered in the param store:UserWarning")
def test_what_is_frozen_after_a_model_has_stopped():
    early, rising = [0.0, 1.0, 0.5, 0.5, 0.5], [float(n) for n in range(5)]
    stop = dv.EarlyStopping(patience=1)
    found = many([early, rising], callbacks=[stop, Freezing("epoch", 4)])
    assert [len(each.history.epochs) for each in found] == [3, 5]
    other = many([rising, rising], callbacks=[Freezing("epoch", 4)])
    assert found[1].history.train_bound == other[1].history.train_bound
    for name, value in other[1].trained.tensors().items():
        assert torch.equal(found[1].trained.tensors()[name], value), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not registered in the param store:UserWarning")
def test_what_is_frozen_for_an_epoch_is_trained_again_for_many():
    class Once(dv.Callback):
        def start(self, run):
            run.parameters["encoder$$$bias"].requires_grad_(False)

        def epoch(self, run):
            run.parameters["encoder$$$bias"].requires_grad_(True)

    rising = [float(n) for n in range(3)]
    together = many([rising, rising], callbacks=[Once()], epochs=3)
    pyro.clear_param_store()
    pair = Pair(1)
    options = {"loss": dv.TraceDenoising_ELBO(max_plate_nesting=1), "seed": 1, "epochs": 3, "batch_size": 12}
    alone = dv.fit(pair.model, pair.guide, X, compile=True, progress=False, callbacks=[Once()], **options)
    assert together[1].history.train_bound == pytest.approx(alone.history.train_bound, rel=1e-9)


def test_the_last_loss_of_many_is_known_without_a_hook_of_steps():
    seen, rising = [], [0.0, 1.0]
    fitted = many(
        [rising, rising], callbacks=[lambda run: seen.append((run.number, run.loss))], batch_size=24
    )
    losses = {number: [loss for own, loss in seen if own == number] for number in (0, 1)}
    for number, one in enumerate(fitted):  # an epoch has one step
        assert [-loss for loss in losses[number]] == pytest.approx(one.history.train_bound)


def test_what_cannot_be_copied_for_every_model_is_refused():
    class Locked(dv.Callback):
        def __init__(self):
            self.lock = threading.Lock()

    with pytest.raises(dv.InputError, match=r"callbacks\[1\]: expected one that can be copied.*__deepcopy__"):
        many([[0.0], [0.0]], callbacks=[print, Locked()])


def test_many_resume_with_a_random_transform(tmp_path):
    def of(epochs, start=0, **options):
        torch.manual_seed(3)
        rising = [float(n) for n in range(start, 4)]
        return many([rising, rising], epochs=epochs, transform=lambda x: x + torch.randn_like(x), **options)

    whole = of(4)
    of(2, checkpoint=tmp_path / "c")
    with pytest.raises(dv.InputError, match=r"epochs: 2 are done in .*, expected no fewer, got 1"):
        many([[0.0], [0.0]], epochs=1, transform=lambda x: x, checkpoint=tmp_path / "c", resume=True)
    again = of(4, 2, checkpoint=tmp_path / "c", resume=True)
    for one, other in zip(whole, again, strict=True):
        assert one.history.train_bound == other.history.train_bound
        assert all(torch.equal(one.best[name], value) for name, value in other.best.items())
