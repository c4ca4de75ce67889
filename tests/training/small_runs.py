"""A small float64 pair, its data, and runs that are stopped and resumed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.training import Stopped, Trainer

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1)).double()
HELD_OUT = torch.randn(8, 4, generator=torch.Generator().manual_seed(2)).double()


class Pair(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(4, 4).double()
        self.decoder = nn.Linear(2, 4).double()

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Noiseless(nn.Module):
    """A pair without random draws, whose loss and gradient a test can compute."""

    def __init__(self, rows=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 4).double()
        self.shift = nn.Linear(4, 1).double()
        self.rows = rows

    def model(self, x):
        pyro.module("net", self.net)
        pyro.module("shift", self.shift)
        with pyro.plate("data", self.rows or len(x), subsample=x if self.rows else None):
            pyro.sample("x", dist.Normal(self.net(x) + self.shift(x), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass

    def loss(self, x):
        """Return the negative log-likelihood of rows, summed (nats)."""
        normal = dist.Normal(self.net(x) + self.shift(x), 1.0)
        return -normal.log_prob(x).sum()


def trainer(pair=None, **options):
    pyro.clear_param_store()
    torch.manual_seed(7)
    pair = pair or Pair()
    settings = {"loss": dv.TraceDenoising_ELBO(), "epochs": 4, "batch_size": 5, "learning_rate": 0.02}
    settings |= {"progress": False, "validation": HELD_OUT}
    return Trainer(pair.model, pair.guide, X, **(settings | options))


def run(made, stop_at=None):
    """Train to the end, or request a stop at a step (counted over all epochs, from 1)."""
    taken = 0
    for epoch in made:
        for x in epoch:
            made.step(x)
            taken += 1
            if taken == stop_at:
                made._requests._interrupts.requested = True
    return made


def outcome(made):
    """Return all that must be equal, bit by bit."""
    tensors = {name: value.clone() for name, value in made.fitted().trained.tensors().items()}
    tensors |= {f"best/{name}": value for name, value in made.fitted().best.items()}
    state = made._run.update.state_dict()
    for name, values in state["optimizer"]["state"].items():
        tensors |= {
            f"{name}/{key}": torch.as_tensor(value) for key, value in values.items() if value is not None
        }
    tensors |= {f"average/{name}": value for name, value in (state["average"] or {}).items()}
    return tensors, made.history.to_dict() | {"seconds": None}


def assert_same(one, other):
    assert one[0].keys() == other[0].keys()
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name
    assert one[1] == other[1]


def assert_resumes(path, options, stop_at):
    """Check that a run that is stopped at a step and resumed ends as an uninterrupted one.

    :param options: returns the options of a run, made anew for each.
    """
    file = path / "run.safetensors"
    with pytest.raises(Stopped):
        run(trainer(checkpoint=file, **options()), stop_at)
    found = outcome(run(trainer(checkpoint=file, resume=True, **options())))
    assert_same(found, outcome(run(trainer(**options()))))
