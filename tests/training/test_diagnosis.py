"""The error for values out of a distribution's range."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.optim import SGD, Adam
from small_runs import HELD_OUT, Pair, X, run, trainer
from torch import nn

import pyro_dvae as dv
from pyro_dvae.training import Trainer, fit
from pyro_dvae.training.diagnosis import first_fault


class Net(nn.Module):
    """A tiny autoencoder whose encoder divides each row by its sum."""

    def __init__(self, normalise=True, batch_norm=False):
        super().__init__()
        self.normalise = normalise
        self.encode = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2) if batch_norm else nn.Identity())
        self.decode = nn.Linear(2, 3)

    def model(self, x):
        pyro.module("decode", self.decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encode", self.encode)
        with pyro.plate("data", len(x)):
            loc = self.encode(x / x.sum(-1, keepdim=True) if self.normalise else x)
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


QUIET = {"progress": False, "epochs": 1, "compile": False}


@pytest.mark.parametrize("row", [3, 17])
def test_rows_of_nan_are_named_in_one_line(row):
    x = torch.rand(20, 3) + 0.1
    x[row] = 0
    net = Net()
    with pytest.raises(dv.DivergenceError) as caught:
        fit(net.model, net.guide, x, loss=Trace_ELBO(), batch_size=20, **QUIET)
    message = str(caught.value)
    assert "\n" not in message
    assert "site 'z': loc of Normal is out of range in row " in message
    assert " of the 20 of the batch, the first is nan" in message
    assert len(message) < 400


def test_the_fault_is_the_first_with_its_rows_and_value():
    x = torch.rand(20, 3) + 0.1
    x[[2, 5, 6, 7, 9, 11, 12]] = 0
    net = Net()
    fault = first_fault(lambda: Trace_ELBO().loss(net.model, net.guide, x))
    rows = "rows 2, 5, 6, 7, 9 and 2 more of the 20 of the batch"
    assert fault.text == f"site 'z': loc of Normal is out of range in {rows}, the first is nan"
    assert not fault.finite
    assert first_fault(lambda: Trace_ELBO().loss(net.model, net.guide, x[:2])) is None


def test_a_finite_value_out_of_range_is_an_input_error():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale * (x - 5)), obs=x)

    def guide(x):
        pass

    with pytest.raises(
        dv.InputError, match=r"site 'x': scale of Normal is out of range in rows 0, 1, 2"
    ) as e:
        Trainer(model, guide, torch.arange(10.0), loss=Trace_ELBO(), **QUIET)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("scale", [1e19, 1e38])
def test_divergence_in_the_first_run_has_its_advice(scale):
    net = Net(normalise=False)
    with pytest.raises(
        dv.DivergenceError, match=r"diverged in epoch 1, step 1.*try a smaller learning_rate"
    ) as e:
        fit(net.model, net.guide, scale * torch.ones(8, 3), loss=Trace_ELBO(), **QUIET)
    assert "\n" not in str(e.value)


def test_one_row_under_batch_normalisation_and_drop_last(tmp_path):
    x = torch.rand(21, 3) + 0.1
    net = Net(batch_norm=True)
    with pytest.raises(dv.InputError, match=r"a batch of 1 row is too small .*drop_last=True"):
        fit(net.model, net.guide, x, loss=Trace_ELBO(), batch_size=10, **QUIET)
    path = tmp_path / "c.safetensors"
    options = {"batch_size": 10, "progress": False, "compile": False, "checkpoint": path}
    trainer = Trainer(net.model, net.guide, x, loss=Trace_ELBO(), drop_last=True, epochs=2, **options)
    seen = [len(rows) for epoch in trainer for rows in epoch if trainer.step(rows) is not None]
    assert seen == [10, 10, 10, 10]
    with pytest.raises(dv.CheckpointError, match="drop_last was True"):
        Trainer(net.model, net.guide, x, loss=Trace_ELBO(), epochs=3, resume=True, **options)
    with pytest.raises(dv.InputError, match="drop_last: expected a batch_size of at most 21"):
        Trainer(net.model, net.guide, x, loss=Trace_ELBO(), drop_last=True, batch_size=22, progress=False)


@pytest.mark.parametrize("optimizer", [Adam, SGD])
def test_a_nan_loss_leaves_the_weights_of_compiled_svi_as_they_are(optimizer):
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.factor("x", -((x - loc) ** 2))

    def guide(x):
        pass

    svi = dv.CompiledSVI(model, guide, optimizer({"lr": 0.1}), Trace_ELBO(max_plate_nesting=1))
    good, bad = torch.ones(4), torch.tensor([1.0, math.nan, 1.0, 1.0])
    values = [0.5]
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN")
        for x in (bad, good, bad, good, good, bad):
            loss = svi.step(x)
            values.append(pyro.param("loc").item())
            assert math.isfinite(values[-1])
            assert (values[-1] == values[-2]) == math.isnan(loss)
    assert values[-1] > 0.5


@pytest.mark.parametrize("own", [False, True])
def test_weights_that_diverge_in_the_last_step_before_validation(own):
    """The weights are finite, but the network's output for the held-out rows is not."""
    pair = Pair()
    options = {"learning_rate": 1e200, "batch_size": len(X), "epochs": 1}
    options |= {"loss": Trace_ELBO(), "validation": None if own else HELD_OUT}

    def evaluate():
        return -Trace_ELBO().loss(pair.model, pair.guide, HELD_OUT) / len(HELD_OUT)

    made = trainer(pair, evaluate=evaluate if own else None, **options)
    with pytest.raises(
        dv.DivergenceError, match=r"epoch 1, step 1: the validation bound is nan; .* try a smaller"
    ):
        run(made)
    bad = HELD_OUT.clone()
    bad[0, 0] = math.inf
    with pytest.raises(dv.InputError, match="validation"):
        run(trainer(Pair(), **options | {"learning_rate": 0.01, "validation": bad}))
