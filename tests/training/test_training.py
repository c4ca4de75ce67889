import json
import math
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from each_epoch import BeforeEpoch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from pyro_dvae.checkpoint import load_checkpoint, load_parameters, save_checkpoint
from pyro_dvae.errors import CheckpointError, DivergenceError, InputError
from pyro_dvae.rows import InMemory
from pyro_dvae.training import History, Stopped, Trainer, fit, kept, load_trained
from pyro_dvae.training.epochs import epoch_order

ROWS, BATCH = 23, 5
STEPS = math.ceil(ROWS / BATCH)


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are tiny: threads only wait for each other
    yield
    torch.set_num_threads(threads)
    pyro.clear_param_store()


def data(rows=ROWS, seed=1):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


class Autoencoder(nn.Module):
    """Noise in the guide, dropout and BatchNorm: a checkpoint must hold the state of each."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2))
        self.heads = nn.Linear(6, 4)
        self.decoder = nn.Linear(2, 4)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", x.new_tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        pyro.module("heads", self.heads)
        noisy = x + 0.1 * torch.randn_like(x) + 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002
        with pyro.plate("data", len(x)):
            loc, log_scale = self.heads(self.encoder(noisy)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def autoencoder_trainer(**options):
    pyro.clear_param_store()
    pyro.set_rng_seed(7)
    net = Autoencoder()
    settings = {"epochs": 4, "batch_size": BATCH, "learning_rate": 0.02, "progress": False}
    settings |= {"validation": data(9, seed=2)}
    return Trainer(net.model, net.guide, data(), loss=Trace_ELBO(), **(settings | options))


def run(trainer, stop_at=None):
    """Train; at the given step (counted over all epochs, from 1) send Ctrl-C to this process."""
    taken = 0
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
            taken += 1
            if taken == stop_at:
                signal.raise_signal(signal.SIGINT)
    return trainer


def snapshot(trainer):
    """Everything that must be equal, bit by bit."""
    trainer_random = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    tensors = {name: value.clone() for name, value in trainer.fitted().trained.tensors().items()}
    for name, leaf in trainer.parameters.items():
        for key, value in trainer._run.optimizer.state[leaf].items():
            tensors[f"{key}/{name}"] = value.clone()
    tensors |= {f"best/{name}": value.clone() for name, value in trainer.fitted().best.items()}
    history = trainer.history.to_dict()
    history.pop("seconds")
    return tensors, history, trainer_random


def assert_same(left, right):
    assert left[0].keys() == right[0].keys()
    for name in left[0]:
        assert torch.equal(left[0][name], right[0][name]), name
    assert left[1:] == right[1:]


# The loop


def test_the_loop_is_adam_on_the_negative_bound():
    """The same losses and weights as plain SVI with one Adam, on the same batches with the same noise."""
    net = Autoencoder()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    trainer = Trainer(
        net.model,
        net.guide,
        data(),
        loss=Trace_ELBO(),
        epochs=2,
        batch_size=BATCH,
        learning_rate=0.01,
        progress=False,
    )
    pyro.set_rng_seed(3)
    losses = [trainer.step(x).item() for epoch in trainer for x in epoch]
    trained = {name: value.clone() for name, value in net.state_dict().items()}
    bounds = [-sum(losses[:STEPS]) / ROWS, -sum(losses[STEPS:]) / ROWS]
    assert trainer.history.train_bound == pytest.approx(bounds, rel=1e-12)
    assert trainer.history.epochs == [1, 2]
    assert trainer.history.validation_bound == [None, None]
    assert trainer.history.best_epoch is None

    pyro.clear_param_store()
    net.load_state_dict(start)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    pyro.set_rng_seed(3)
    expected = []
    for epoch in range(2):
        for rows in epoch_order(ROWS, BATCH, 0, epoch).split(BATCH):
            expected.append(svi.step(data()[rows]))
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, value in net.state_dict().items():
        # BatchNorm removes this bias, so its gradient, and its path, is rounding noise.
        if name in ("encoder.0.bias", "encoder.1.running_mean"):
            continue
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-6)


def test_every_row_comes_once_per_epoch_in_an_order_of_seed_and_epoch():
    def rows_of(seed):
        trainer = autoencoder_trainer(epochs=3, seed=seed, validation=None)
        seen = []
        for epoch in trainer:
            assert len(epoch) == STEPS
            batches = list(epoch)
            assert [len(x) for x in batches] == [5, 5, 5, 5, 3]
            seen.append(torch.cat(batches))
        return seen

    first = rows_of(0)
    torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first, rows_of(0), strict=True))
    assert not torch.equal(first[0], rows_of(1)[0])
    assert not torch.equal(first[0], first[1])
    for epoch in first:
        assert torch.equal(epoch.sort(0).values, data().sort(0).values)


def test_the_stream_does_not_depend_on_what_is_watched(tmp_path, capsys):
    bare = snapshot(run(autoencoder_trainer(validation=None)))
    pyro.clear_param_store()
    watched = autoencoder_trainer(
        checkpoint=tmp_path / "c.safetensors",
        metrics=tmp_path / "m.jsonl",
        progress=None,
        callbacks=[BeforeEpoch(lambda epoch: (torch.rand(3), random.random()))],
    )
    seen = snapshot(run(watched))
    for name, value in bare[0].items():
        assert torch.equal(value, seen[0][name]), name
    assert bare[1]["train_bound"] == seen[1]["train_bound"]
    assert bare[2] == seen[2]
    assert "epoch 4/4  training" in capsys.readouterr().err


def test_nothing_is_seeded_and_no_global_setting_is_changed():
    pyro.set_rng_seed(5)
    before = torch.get_rng_state(), random.getstate()
    net = Autoencoder()
    created = torch.get_rng_state()
    settings = {name: pyro.settings.get(name) for name in pyro.settings.get()}
    Trainer(net.model, net.guide, data(), loss=Trace_ELBO(), progress=False)
    assert torch.equal(torch.get_rng_state(), created)
    assert not torch.equal(before[0], created)
    assert random.getstate() == before[1]
    assert settings == {name: pyro.settings.get(name) for name in pyro.settings.get()}


def test_the_dry_run_leaves_the_buffers(tmp_path):
    net = Autoencoder()
    Trainer(net.model, net.guide, data(), loss=Trace_ELBO(), progress=False)
    assert net.encoder[1].num_batches_tracked == 0
    assert torch.equal(net.encoder[1].running_mean, torch.zeros(6))


def test_gradients_that_the_caller_has_switched_off_are_on_in_a_step():
    found = []
    for switched in (torch.enable_grad(), torch.no_grad()):
        pyro.clear_param_store()
        torch.manual_seed(0)
        made = Autoencoder()
        with switched:
            fitted = fit(made.model, made.guide, data(), loss=Trace_ELBO(), epochs=2, compile=False, seed=3)
        found.append(fitted.history.train_bound)
    assert found[0] == found[1]


def test_inference_mode_is_refused():
    made = Autoencoder()
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch\.inference_mode is on.*no_grad"):
        fit(made.model, made.guide, data(), loss=Trace_ELBO(), epochs=1)


def test_training_raises_the_bound():
    history = run(autoencoder_trainer(epochs=20)).history
    assert history.train_bound[-1] > history.train_bound[0] + 0.5
    assert history.validation_bound[-1] > history.validation_bound[0]


def test_schedule_clip_transform_and_before_epoch():
    told, kinds = [], set()

    def transform(x):
        kinds.add(x.dtype)
        return x.float() / 255

    raw = torch.randint(0, 256, (ROWS, 4), dtype=torch.uint8)
    net = Autoencoder()
    trainer = Trainer(
        *(net.model, net.guide, raw),
        loss=Trace_ELBO(),
        validation=raw,
        epochs=10,
        batch_size=BATCH,
        learning_rate=0.01,
        schedule="paper",
        clip_norm=1e-3,
        transform=transform,
        progress=False,
        callbacks=[BeforeEpoch(told.append)],
    )
    for epoch in trainer:
        assert told[-1] == epoch.index == epoch.number - 1
        for x in epoch:
            trainer.step(x)
            norm = torch.stack(
                [p.grad.norm() for p in trainer.parameters.values() if p.grad is not None]
            ).norm()
            assert norm <= 1e-3 * 1.001
    assert trainer.history.learning_rate == pytest.approx([0.01 * k / 10 for k in range(10, 0, -1)])
    assert told == list(range(10))
    assert kinds == {torch.uint8}


# Parameters


class LocalModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(4))
        self.scale = PyroParam(torch.ones(4), constraint=constraints.positive)
        self.net = PyroModule[nn.Linear](2, 4)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + self.net(z), self.scale).to_event(1), obs=x)


class LocalGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))  # the name of one of the model's
        self.net = nn.Linear(4, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc + self.net(x), 1.0).to_event(1))


def test_modules_with_local_parameters_of_one_name(tmp_path):
    with pyro.settings.context(module_local_params=True):
        trainer = Trainer(
            LocalModel(), LocalGuide(), data(), loss=Trace_ELBO(), epochs=1, batch_size=BATCH, progress=False
        )
        before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
        run(trainer)
    assert len(trainer.parameters) == 7
    assert sorted(tuple(value.shape) for value in before.values()) == sorted(
        [(4,), (4,), (4, 2), (4,), (2,), (2, 4), (2,)]
    )
    for name, value in trainer.parameters.items():
        assert not torch.equal(value, before[name]), name
    assert len(pyro.get_param_store()) == 0


def test_modules_whose_parameters_are_in_the_store():
    model = LocalModel()

    def guide(x):
        loc = pyro.param("guide_loc", lambda: torch.randn(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).expand([len(x), 2]).to_event(1))

    trainer = Trainer(model, guide, data(), loss=Trace_ELBO(), epochs=1, batch_size=BATCH, progress=False)
    store = pyro.get_param_store()
    assert set(trainer.parameters) == set(store.keys())
    assert all(trainer.parameters[name] is store._params[name] for name in store.keys())  # noqa: SIM118
    before = model.scale.detach().clone()
    run(trainer)
    assert not torch.equal(model.scale, before)
    assert (model.scale > 0).all()


def test_modules_in_the_closure_of_functions_keep_their_buffers_and_modes():
    net = Autoencoder()
    net.encoder[3].eval()  # a mode of its own

    def model(x):
        return net.model(x)

    def guide(x):
        return net.guide(x)

    modes = []

    def evaluate():
        modes.append([net.encoder[1].training, net.encoder[3].training])
        return 0.0

    trainer = Trainer(
        *(model, guide, data()),
        loss=Trace_ELBO(),
        epochs=1,
        batch_size=BATCH,
        evaluate=evaluate,
        progress=False,
    )
    assert any(name.endswith("running_mean") for name in trainer.fitted().trained.buffers())
    run(trainer)
    assert net.encoder[1].num_batches_tracked == STEPS
    assert modes == [[False, False]]
    assert net.encoder[1].training
    assert not net.encoder[3].training


def test_what_svi_would_train_is_trained_and_the_rest_is_named():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)
            self.feature = nn.Linear(4, 4)
            self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward(self, x):
            pyro.module("net", self.net)
            with pyro.plate("data", len(x)):
                loc = self.net(self.feature(x)) + self.fixed
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    guide = Plain()
    model, x = LocalModel(), data()
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    named = "^not trained: guide.feature.weight, guide.feature.bias, which .*pyro.module"
    with pytest.warns(UserWarning, match=named):
        trainer = Trainer(model, guide, x, loss=Trace_ELBO(), batch_size=BATCH, epochs=1, progress=False)
    with poutine.trace(param_only=True) as capture:  # what SVI's optimizer gets
        Trace_ELBO().loss_and_grads(model, guide, x)
    wanted = {id(site["value"].unconstrained()) for site in capture.trace.nodes.values()}
    assert {id(leaf) for leaf in trainer.parameters.values()} == wanted
    run(trainer)
    changed = {name for name, value in guide.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"net.weight", "net.bias"}


def test_partials_and_bounds_that_do_their_own_backward():
    net = Autoencoder()
    bound = RenyiELBO(alpha=0.0, num_particles=2)
    trainer = Trainer(
        *(partial(net.model), partial(net.guide), data()),
        loss=bound,
        epochs=8,
        learning_rate=0.02,
        batch_size=BATCH,
        progress=False,
    )
    assert set(trainer.fitted().trained.modules) == {"model", "guide"}
    history = run(trainer).history
    assert history.train_bound[-1] > history.train_bound[0]


def test_frozen_parameters_and_models_without_any():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x), 4]).to_event(1), obs=x)

    with pytest.raises(InputError, match="model, guide: expected parameters to train, found none"):
        Trainer(model, lambda x: None, data(), loss=Trace_ELBO(), progress=False)


# Validation and the best epoch


def test_the_best_epoch_is_kept_and_put_back():
    values = iter([1.0, 3.0, -math.inf, 2.0])
    copies = []
    trainer = autoencoder_trainer(evaluate=lambda: next(values))
    for epoch in trainer:
        if epoch.index:
            copies.append({name: value.clone() for name, value in trainer.fitted().trained.tensors().items()})
        for x in epoch:
            trainer.step(x)
    assert trainer.history.best_epoch == 2
    assert trainer.history.best_validation_bound == 3.0
    assert trainer.history.validation_bound == [1.0, 3.0, -math.inf, 2.0]
    after_second = copies[1]
    assert not torch.equal(
        trainer.fitted().trained.tensors()["parameters/scale"], after_second["parameters/scale"]
    )
    trainer.load_best()
    for name, value in trainer.fitted().trained.tensors().items():
        assert torch.equal(value, after_second[name]), name


def test_the_default_validation_is_the_mean_bound_in_evaluation_mode():
    trainer = autoencoder_trainer(epochs=1)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(4)), 1.0).to_event(1), obs=x)

    held_out = data(57, seed=3)
    trainer = Trainer(
        *(model, lambda x: None, data()),
        loss=Trace_ELBO(),
        validation=held_out,
        epochs=1,
        batch_size=3,
        progress=False,
    )
    run(trainer)
    expected = dist.Normal(pyro.param("m"), 1.0).log_prob(held_out).sum(-1).mean().item()
    assert trainer.history.validation_bound[0] == pytest.approx(expected, rel=1e-5)
    assert trainer.history.best_epoch == 1


# Exact resume


@pytest.mark.parametrize("stop_at", [1, STEPS - 1, STEPS, STEPS + 2, 4 * STEPS])
def test_stopped_and_resumed_is_as_never_stopped(tmp_path, stop_at):
    path = tmp_path / "run.safetensors"
    whole = snapshot(run(autoencoder_trainer()))

    trainer = autoencoder_trainer(checkpoint=path, config={"noise": 0.1})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped) as stopped:
        run(trainer, stop_at)
    assert stopped.value.checkpoint == path
    assert str(path) in str(stopped.value)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) == before

    resumed = autoencoder_trainer(checkpoint=path, resume=True, config={"noise": 0.1})
    torch.rand(11)  # draws before the loop do not matter
    assert_same(snapshot(run(resumed)), whole)

    # once more: a finished run does nothing
    written = path.stat().st_mtime_ns
    again = autoencoder_trainer(checkpoint=path, resume=True, config={"noise": 0.1})
    assert_same(snapshot(run(again)), whole)
    assert again.history == resumed.history
    assert path.stat().st_mtime_ns == written


def test_a_checkpoint_of_version_0_1_resumes(tmp_path):
    """It holds Adam's moments as separate tensors, and no entries of later versions."""
    path = tmp_path / "c.safetensors"
    whole = run(autoencoder_trainer(epochs=4))
    run(autoencoder_trainer(epochs=2, checkpoint=path))
    tensors, state = load_checkpoint(path)
    moments = kept.unpack(tensors, state)["update"]["optimizer"]["state"]
    for key in ("accumulate", "ema", "drop_last"):
        del state["settings"][key]
    del state["kept"]
    tensors = {name: each for name, each in tensors.items() if not name.startswith("update/")}
    for name, values in moments.items():
        tensors |= {f"optimizer/{key}/{name}": torch.as_tensor(value) for key, value in values.items()}
    save_checkpoint(path, tensors, state)
    assert_same(snapshot(run(autoencoder_trainer(epochs=4, checkpoint=path, resume=True))), snapshot(whole))


def test_stopped_many_times(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = snapshot(run(autoencoder_trainer()))
    trainer = autoencoder_trainer(checkpoint=path)
    for _ in range(4 * STEPS):
        try:
            run(trainer, 3)
            break
        except Stopped:
            trainer = autoencoder_trainer(checkpoint=path, resume=True)
    assert_same(snapshot(trainer), whole)


def test_stopped_while_validating(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = snapshot(run(autoencoder_trainer()))

    trainer = autoencoder_trainer(checkpoint=path)
    inner = trainer.bound.loss
    calls = []

    def loss(*arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return inner(*arguments)

    trainer.bound.loss = loss
    with pytest.raises(Stopped):
        run(trainer)
    _, state = load_checkpoint(path)
    assert (state["epoch"], state["position"]) == (1, STEPS)
    assert_same(snapshot(run(autoencoder_trainer(checkpoint=path, resume=True))), whole)


def test_leaving_both_loops_and_going_on_in_the_same_process(tmp_path):
    whole = snapshot(run(autoencoder_trainer()))
    trainer = autoencoder_trainer(checkpoint=tmp_path / "c.safetensors")
    before = signal.getsignal(signal.SIGINT)
    for epoch in trainer:
        for index, x in enumerate(epoch):
            trainer.step(x)
            if index == 2:
                break
        break
    assert signal.getsignal(signal.SIGINT) == before
    assert trainer.history.epochs == []
    trainer.save()
    assert load_checkpoint(trainer.checkpoint)[1]["position"] == 3
    assert_same(snapshot(run(trainer)), whole)
    assert_same(snapshot(run(autoencoder_trainer(checkpoint=trainer.checkpoint, resume=True))), whole)


def test_leaving_the_inner_loop_ends_the_epoch():
    trainer = autoencoder_trainer(epochs=2)
    losses = []
    for epoch in trainer:
        for index, x in enumerate(epoch):
            if index == 2:
                break
            losses.append(trainer.step(x).item())
    assert trainer.history.epochs == [1, 2]
    assert trainer.history.train_bound[0] == pytest.approx(-sum(losses[:2]) / (2 * BATCH))
    assert None not in trainer.history.validation_bound


def test_an_epoch_without_steps_has_no_training_bound():
    trainer = autoencoder_trainer(epochs=1)
    for epoch in trainer:
        for _ in epoch:
            pass
    assert trainer.history.train_bound == [None]


def test_more_epochs_on_resume(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = snapshot(run(autoencoder_trainer(epochs=4)))
    run(autoencoder_trainer(checkpoint=path, epochs=2))
    assert_same(snapshot(run(autoencoder_trainer(checkpoint=path, epochs=4, resume=True))), whole)


def test_a_callback_starts_after_a_resume(tmp_path):
    path, told = tmp_path / "run.safetensors", []
    with pytest.raises(Stopped):
        run(autoencoder_trainer(checkpoint=path), STEPS + 2)
    run(autoencoder_trainer(checkpoint=path, resume=True, callbacks=[BeforeEpoch(told.append)]))
    assert told == [1, 2, 3]


def test_nothing_to_save_to():
    with pytest.raises(Stopped, match="nothing was saved") as stopped:
        run(autoencoder_trainer(), 2)
    assert stopped.value.checkpoint is None


def test_a_second_interrupt_is_immediate_and_other_threads_leave_signals_alone(tmp_path):
    trainer = autoencoder_trainer(checkpoint=tmp_path / "c.safetensors")

    def interrupt_twice():
        for epoch in trainer:
            for x in epoch:
                trainer.step(x)
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupt_twice()
    assert not isinstance(caught.value, Stopped)
    assert not (tmp_path / "c.safetensors").exists()

    trainer, handlers = autoencoder_trainer(epochs=1), []

    def work():
        for epoch in trainer:
            for x in epoch:
                handlers.append(signal.getsignal(signal.SIGINT))
                trainer.step(x)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert set(handlers) == {signal.getsignal(signal.SIGINT)}
    assert trainer.history.epochs == [1]


SCRIPT = """
    import sys, time
    from pathlib import Path
    sys.path[:0] = [{tests!r}, str(Path({tests!r}).parent)]
    import torch
    torch.set_num_threads(1)
    from test_training import STEPS, autoencoder_trainer

    folder = Path(sys.argv[1])
    resume = sys.argv[2] == "resume"
    trainer = autoencoder_trainer(
        checkpoint=folder / "c.safetensors", metrics=folder / "m.jsonl", resume=resume
    )
    for epoch in trainer:
        for index, x in enumerate(epoch):
            trainer.step(x)
            if not resume and (epoch.index, index) == (2, 2):
                (folder / "marker").touch()
                time.sleep(600)
"""


@pytest.mark.slow  # runs/test_kills.py kills the command
def test_a_killed_process_resumed_is_as_never_killed(tmp_path):
    script = tmp_path / "run.py"
    tests = str(Path(__file__).parent)
    script.write_text(textwrap.dedent(SCRIPT).format(tests=tests))
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen([*command, "new"], stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "marker").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.stderr.close()
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write('{"epoch": 3, "trunc')
    subprocess.run([*command, "resume"], check=True, timeout=60)

    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    whole = run(autoencoder_trainer(checkpoint=tmp_path / "whole.safetensors"))
    assert [line["train_bound"] for line in lines] == whole.history.train_bound
    expected, _ = load_checkpoint(tmp_path / "whole.safetensors")
    tensors, state = load_checkpoint(tmp_path / "c.safetensors")
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value), name
    assert state["history"]["validation_bound"] == whole.history.validation_bound


# What a checkpoint belongs to


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run.safetensors"
    run(autoencoder_trainer(checkpoint=path, epochs=1, config={"noise": 0.1, "net": {"hidden": (6, 6)}}))
    return path


def refused(words, path, **options):
    options = {"epochs": 1, "config": {"noise": 0.1, "net": {"hidden": [6, 6]}}} | options
    with pytest.raises(CheckpointError, match=words) as caught:
        autoencoder_trainer(checkpoint=path, resume=True, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_option_that_is_not_set_is_as_good_as_one_that_an_old_checkpoint_does_not_have(finished):
    config = {"noise": 0.1, "net": {"hidden": [6, 6], "later": None}, "new": None}
    trainer = autoencoder_trainer(checkpoint=finished, resume=True, epochs=1, config=config)
    assert trainer.history.epochs == [1]
    refused("new was 'nothing', is now False", finished, config=config | {"new": False})


def test_another_configuration_is_refused_naming_every_difference(finished):
    config = {"noise": 0.2, "net": {"hidden": [6, 7]}, "new": 1}
    words = (
        r"noise was 0.1, is now 0.2; net.hidden was \[6, 6\], is now \[6, 7\]; new was 'nothing', is now 1"
    )
    refused(words, finished, config=config)
    refused("batch_size was 5, is now 4; seed was 0, is now 1", finished, batch_size=4, seed=1)
    refused("schedule was 'constant', is now 'paper'", finished, schedule="paper")
    changed = {"noise": 0.2, "net": {"hidden": (6, 6)}}
    autoencoder_trainer(
        checkpoint=finished, resume=True, epochs=2, config=changed, may_change=("epochs", "noise")
    )


def test_other_data_is_refused(finished):
    net = Autoencoder()
    options = {"batch_size": BATCH, "learning_rate": 0.02, "epochs": 1, "progress": False}
    options |= {"config": {"noise": 0.1, "net": {"hidden": [6, 6]}}, "validation": data(9, seed=2)}
    for other, words in [
        (data(24), r"train.shape was \[23, 4\], is now \[24, 4\]"),
        (data().double(), "train.dtype was 'float32', is now 'float64'"),
        (data(seed=9), "train.rows was"),
    ]:
        pyro.clear_param_store()
        net.to(other.dtype)
        options["validation"] = data(9, seed=2).to(other.dtype)
        with pytest.raises(CheckpointError, match=f"other data: {words}"):
            Trainer(
                *(net.model, net.guide, other), loss=Trace_ELBO(), checkpoint=finished, resume=True, **options
            )
    refused("other data: validation.shape was", finished, validation=None)


def fingerprint(x):
    (found,) = InMemory(x).fingerprints()
    return found


def test_the_fingerprint_sees_one_changed_value_in_the_middle():
    changed = data()
    changed[11, 2] += 1e-3
    assert fingerprint(changed)["sum"] != fingerprint(data())["sum"]
    for dtype in (torch.uint8, torch.bool, torch.bfloat16, torch.float64, torch.complex128):
        assert fingerprint(data().to(dtype))["dtype"] == str(dtype).removeprefix("torch.")


def test_other_parameters_are_refused_naming_the_first(finished, monkeypatch):
    class Wider(Autoencoder):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh())
            self.heads = nn.Linear(8, 4)

    monkeypatch.setitem(globals(), "Autoencoder", Wider)
    refused(
        r"parameters 'encoder.*': the checkpoint has float32\[6, 4\], this run has float32\[8, 4\]", finished
    )


def test_missing_damaged_and_foreign_checkpoints(finished, tmp_path):
    begin = r"there is no such file; start without resume=True, or with resume=os\.path\.exists"
    refused(begin, tmp_path / "other.safetensors")
    save_checkpoint(tmp_path / "other.safetensors", {}, {"kind": "something"})
    refused("not from a training run", tmp_path / "other.safetensors")
    content = bytearray(finished.read_bytes())
    content[-5] ^= 4
    finished.write_bytes(content)
    refused("damaged", finished)
    with pytest.raises(InputError, match="resume: expected the path of the checkpoint"):
        autoencoder_trainer(resume=True)


def test_an_old_checkpoint_is_replaced_at_the_first_save_only(finished):
    before = finished.read_bytes()
    trainer = autoencoder_trainer(checkpoint=finished)
    for epoch in trainer:
        assert (finished.read_bytes() == before) == (epoch.index == 0)
        for x in epoch:
            trainer.step(x)


def test_checkpoint_every(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(
        "pyro_dvae.training.resuming.save_checkpoint",
        lambda path, tensors, state: saves.append(state["epoch"]),
    )
    run(autoencoder_trainer(checkpoint=tmp_path / "c.safetensors", checkpoint_every=3))
    assert saves == [3, 4]


def test_weights_can_be_loaded_without_the_data(tmp_path):
    path = tmp_path / "c.safetensors"
    values = iter([1.0, 0.0])
    trainer = run(autoencoder_trainer(checkpoint=path, epochs=2, evaluate=lambda: next(values)))
    last = {name: value.clone() for name, value in trainer.fitted().trained.tensors().items()}
    assert torch.equal(load_parameters(path, "last")["scale"], last["parameters/scale"])
    trainer.load_best()
    assert torch.equal(load_parameters(path)["scale"], trainer.parameters["scale"])

    pyro.clear_param_store()
    net = Autoencoder()
    load_trained(path, net.model, net.guide, Trace_ELBO(), data()[:2])
    for mine, theirs in zip(
        net.state_dict().values(), trainer.model.__self__.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    load_trained(path, net.model, net.guide, Trace_ELBO(), data()[:2], which="last")
    assert torch.equal(net.decoder.weight, last["parameters/decoder$$$weight"])


# Divergence


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("validated", [True, False])
def test_divergence_is_reported_and_nothing_after_it_is_saved(tmp_path, validated):
    path = tmp_path / "c.safetensors"
    poison = []

    def transform(x):
        return x * math.nan if poison else x

    trainer = autoencoder_trainer(checkpoint=path, transform=transform, validation=None)
    saved = []

    def train():
        for epoch in trainer:
            for index, x in enumerate(epoch):
                if (epoch.index, index) == (1, 1):
                    saved.append(path.read_bytes())
                    poison.append(1)
                trainer.step(x)

    with pytest.raises(DivergenceError) as caught, pyro.validation_enabled(validated):
        train()
    message = str(caught.value)
    what = "site 'z': loc of Normal is out of range in rows 0, 1" if validated else "the loss is nan"
    assert f"epoch 2, step 3: {what}" in message
    assert isinstance(caught.value.__cause__, ValueError) == validated
    assert f"last good checkpoint: {path}" in message
    assert all(advice in message for advice in ("learning_rate (now 0.02)", "clip_norm", "range of the data"))
    assert "\n" not in message
    assert [path.read_bytes()] == saved
    assert all(value.isfinite().all() for value in trainer.parameters.values())
    assert trainer.history.epochs == [1]


def test_parameters_that_diverge_in_the_last_step_are_not_saved(tmp_path):
    path = tmp_path / "c.safetensors"
    trainer = autoencoder_trainer(checkpoint=path)

    def train():
        for epoch in trainer:
            for x in epoch:
                trainer.step(x)
            with torch.no_grad():
                trainer.parameters["scale"].fill_(math.nan)

    with pytest.raises(DivergenceError, match=r"epoch 1, step 5: parameter '.+' holds NaN.*no checkpoint"):
        train()
    assert not path.exists()


def test_a_validation_bound_of_nan_stops():
    with pytest.raises(DivergenceError, match="the validation bound is nan"):
        run(autoencoder_trainer(evaluate=lambda: math.nan))


def test_losses_of_a_device_that_runs_ahead_are_checked_later():
    trainer = autoencoder_trainer(epochs=1)
    record = trainer._run.record
    for step in range(4):
        record.hand_out(5)
        record.add(torch.tensor(math.inf if step == 2 else 1.0))
        record.take_back()
    assert record.losses == []
    assert record.position == 4
    with pytest.raises(DivergenceError, match="step 3: the loss is inf"):
        trainer._faults.require_finite_losses()
    with pytest.raises(DivergenceError, match="step 3"):
        trainer._faults.require_finite_losses()


# Files and arguments


def test_metrics_agree_with_the_history(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("what was there\n")
    values = iter([1.0, 3.0, -math.inf, 4.0])
    trainer = run(autoencoder_trainer(metrics=path, evaluate=lambda: next(values)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["best"] for line in lines] == [True, True, False, True]
    assert [line["validation_bound"] for line in lines] == [1.0, 3.0, None, 4.0]
    assert [line["train_bound"] for line in lines] == trainer.history.train_bound
    assert all(line["learning_rate"] == 0.02 and line["seconds"] > 0 for line in lines)


def test_fit_is_the_loop():
    loop = run(autoencoder_trainer())
    pyro.clear_param_store()
    pyro.set_rng_seed(7)
    net = Autoencoder()
    history = fit(
        *(net.model, net.guide, data()),
        loss=Trace_ELBO(),
        validation=data(9, seed=2),
        epochs=4,
        batch_size=BATCH,
        learning_rate=0.02,
        progress=False,
    ).history
    assert isinstance(history, History)
    assert history.train_bound == loop.history.train_bound
    assert history.validation_bound == loop.history.validation_bound


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number"),
        ({"learning_rate": -1}, "learning_rate: expected a number above 0"),
        ({"clip_norm": 0}, "clip_norm: expected a number above 0"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"schedule": "papr"}, "schedule: unknown name 'papr'"),
        ({"validation": [1.0]}, r"validation: expected a tensor .*, got list"),
        ({"validation": torch.tensor(1.0)}, r"validation: expected data of shape \[N, ...\]"),
        ({"config": {"a": object()}}, r"config: .*JSON"),
        ({"config": [1]}, "config: expected a dictionary"),
        ({"checkpoint": "/dev/null/c.safetensors"}, "output: cannot write /dev/null/c.safetensors: "),
        ({"metrics": "/dev/null/m.jsonl"}, "output: cannot write /dev/null/m.jsonl: "),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(InputError, match=words) as caught:
        autoencoder_trainer(**options)
    assert "\n" not in str(caught.value)


def test_bad_data_and_bound():
    net = Autoencoder()
    poisoned = data()
    poisoned[3, 1] = math.nan
    for train, words in [
        (poisoned, "data: expected finite values, got 1 NaN"),
        (data()[:0], "data: expected at least one element"),
        (object(), "data: expected a tensor .*, got <object"),
    ]:
        with pytest.raises(InputError, match=words):
            Trainer(net.model, net.guide, train, loss=Trace_ELBO(), progress=False)
    with pytest.raises(InputError, match=r"loss: expected an instance of a pyro\.infer\.ELBO"):
        Trainer(net.model, net.guide, data(), loss="elbo", progress=False)


def test_one_row_and_batches_larger_than_the_data():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(4)), 1.0).to_event(1), obs=x)

    trainer = run(Trainer(model, lambda x: None, data(1), loss=Trace_ELBO(), epochs=2, progress=False))
    assert trainer.history.epochs == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resume_on_a_gpu(tmp_path):
    def trainer(**options):
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        net = Autoencoder().cuda()
        return Trainer(
            *(net.model, net.guide, data()),
            loss=Trace_ELBO(),
            epochs=3,
            batch_size=BATCH,
            progress=False,
            device="cuda",
            **options,
        )

    whole = snapshot(run(trainer()))
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stopped):
        run(trainer(checkpoint=path), STEPS + 2)
    assert_same(snapshot(run(trainer(checkpoint=path, resume=True))), whole)


def test_default_validation_uses_clean_input():
    from exact import LinearGaussian

    import pyro_dvae as dv

    problem = LinearGaussian(sigma=3.0)
    x = torch.randn(400, 3, dtype=torch.float64)
    trainer = Trainer(
        problem.model,
        problem.guide,
        x,
        loss=dv.TraceDenoising_ELBO(),
        validation=x,
        epochs=1,
        learning_rate=1e-12,
        progress=False,
    )
    for epoch in trainer:
        for batch in epoch:
            trainer.step(batch)
    with torch.no_grad():
        noisy = float(problem.l_dvae(x).mean())
        problem.corruption.raw = None
        problem.corruption = dv.GaussianNoise(torch.zeros((), dtype=torch.float64))
        clean = float(problem.l_dvae(x).mean())
    assert trainer.history.validation_bound[0] == pytest.approx(clean, abs=1.0)
    assert clean > noisy + 5


def test_what_is_printed_is_a_short_table():
    net = Autoencoder()
    fitted = fit(
        *(net.model, net.guide, data()),
        loss=Trace_ELBO(),
        validation=data(9, seed=2),
        epochs=30,
        batch_size=BATCH,
        learning_rate=0.02,
        progress=False,
    )
    heading, columns, *rows = str(fitted).splitlines()
    count = sum(each.numel() for each in fitted.trained.parameters.values())
    assert heading == f"{count} parameters, 30 epochs, best epoch {fitted.history.best_epoch}"
    assert columns.split() == ["epoch", "training", "validation", "rate", "seconds"]
    assert len(rows) <= 10
    assert [row.split()[0] for row in rows if row.endswith("best")] == [str(fitted.history.best_epoch)]
    assert rows[-1].split()[:3] == [
        "30",
        f"{fitted.history.train_bound[-1]:.3f}",
        f"{fitted.history.validation_bound[-1]:.3f}",
    ]
