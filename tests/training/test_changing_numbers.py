"""Numbers of the programs that change from epoch to epoch: bounds without scales; compilation that ends."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from small_runs import Pair, assert_same, outcome, run, trainer

from pyro_dvae.training import Stopped, recorded

pytestmark = pytest.mark.usefixtures("interpreted")


class Levelled(Pair):
    """A pair with a level of the epoch: a number, or a buffer."""

    def __init__(self, of_epoch, buffer=False):
        super().__init__()
        self.of_epoch = of_epoch
        if buffer:
            self.register_buffer("level", torch.tensor(1.0, dtype=torch.float64))
        else:
            self.level = 1.0

    def set_epoch(self, epoch):
        if isinstance(self.level, torch.Tensor):
            self.level.fill_(self.of_epoch(epoch))
        else:
            self.level = self.of_epoch(epoch)


class Scaled(Levelled):
    """The level is the scale of all sites."""

    def __init__(self, of_epoch=lambda epoch: 0.1**epoch, buffer=False):
        super().__init__(of_epoch, buffer)

    def model(self, x):
        with pyro.poutine.scale(scale=self.level):
            super().model(x)

    def guide(self, x):
        with pyro.poutine.scale(scale=self.level):
            super().guide(x)


def bounds(pair, **options):
    """Return the training bounds of a pair that hardly changes."""
    history = run(trainer(pair, learning_rate=1e-9, **options)).history
    return history.train_bound, history.validation_bound


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_bounds_are_without_a_scale_that_changes(compiled):
    plain, scaled = (bounds(pair, compile=compiled) for pair in (Pair(), Scaled()))
    for one, other in zip(plain, scaled, strict=True):
        assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_a_scale_that_comes_back_has_its_bound_back():
    expected, _ = bounds(Pair(), compile=True)
    found, _ = bounds(Scaled(lambda epoch: (1.0, 0.1)[epoch % 2]), compile=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_scale_in_a_tensor_is_read_at_every_step():
    expected, _ = bounds(Pair())
    assert bounds(Scaled(buffer=True))[0] == pytest.approx(expected, rel=1e-5)
    with pytest.warns(UserWarning, match="uncompiled steps.*the value of a tensor is read"):
        found, _ = bounds(Scaled(buffer=True), compile=True)
    assert found == pytest.approx(expected, rel=1e-5)


class Tempered(Levelled):
    """The level is the scale of the latent."""

    def __init__(self, buffer=False):
        super().__init__(lambda epoch: 1 / (1 + epoch), buffer)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=self.level):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


def test_a_scale_of_the_latent_in_a_tensor_is_recorded_once():
    found, expected = (
        run(trainer(Tempered(buffer), compile=True, batch_size=12)) for buffer in (True, False)
    )
    assert [len(each._run.recorded.prints) for each in (found, expected)] == [1, 4]
    assert found.history.train_bound == pytest.approx(expected.history.train_bound, rel=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training by uncompiled steps")
@pytest.mark.parametrize("stop_at", [4, 5, 7, 8])
def test_a_resumed_run_stops_compiling_at_the_same_step(tmp_path, stop_at, monkeypatch):
    monkeypatch.setattr(recorded, "_AT_MOST", 3)

    def options():
        return {"epochs": 6, "batch_size": 12, "compile": True, "checkpoint": tmp_path / "c"}

    with pytest.raises(Stopped):
        run(trainer(Tempered(), **options()), stop_at)
    found = run(trainer(Tempered(), resume=True, **options()))
    whole = run(trainer(Tempered(), **options() | {"checkpoint": None}))
    assert whole._steps.compiled is None  # after the third number
    assert_same(outcome(found), outcome(whole))
