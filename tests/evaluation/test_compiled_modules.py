"""Modules wrapped by ``torch.compile``, in every entry point."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv

X = torch.bernoulli(torch.full((8, 3), 0.5), generator=torch.Generator().manual_seed(1))


class Programs:
    """A model, and a guide whose encoder is wrapped in one of several ways."""

    def __init__(self, wrap):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))
        self.decoder = nn.Linear(1, 3)
        self.encoder = wrap(self.net)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


def in_place(net):
    net.compile(backend="eager")
    return net


WRAPPED = {
    "module": lambda net: torch.compile(net, backend="eager"),
    "in place": in_place,
    "function": lambda net: torch.compile(lambda x: net(x), backend="eager"),
}
MEASURES = {
    "log_likelihood": lambda p: dv.log_likelihood(p.model, p.guide, X, num_samples=40, seed=1).log_likelihood,
    "recorded": lambda p: (
        dv.log_likelihood(
            p.model, p.guide, X, num_samples=40, seed=1, bfloat16=True, compile=False
        ).log_likelihood
    ),
    "annealed": lambda p: (
        dv.annealed_log_likelihood(
            p.model, p.guide, X, num_steps=3, num_chains=2, start="guide", seed=1
        ).log_likelihood
    ),
    "bound": lambda p: (
        dv.evaluate_bound(p.model, p.guide, X, loss=dv.TraceDenoising_ELBO(), seed=1).per_datum
    ),
    "fit": lambda p: torch.tensor(
        dv.fit(
            *(p.model, p.guide, X),
            loss=dv.TraceDenoising_ELBO(),
            validation=X,
            epochs=2,
            batch_size=5,
            progress=False,
            compile=False,
        ).history.validation_bound
    ),
}


COMBINATIONS = [
    pytest.param(measure, wrap, marks=pytest.mark.slow if measure == "annealed" else ())
    for measure in MEASURES
    for wrap in WRAPPED
]


@pytest.mark.usefixtures("bfloat16_pays")
@pytest.mark.parametrize(("measure", "wrap"), COMBINATIONS)
def test_a_compiled_encoder_gives_the_figures_of_a_plain_one(measure, wrap):
    found = []
    for each in (WRAPPED[wrap], lambda net: net):
        torch._dynamo.reset()
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        found.append(MEASURES[measure](Programs(each)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_its_steps_are_recorded_too():
    losses = []
    for wrap in (WRAPPED["module"], lambda net: net):
        torch._dynamo.reset()
        pyro.clear_param_store()
        programs = Programs(wrap)
        pyro.set_rng_seed(0)
        adam = pyro.optim.Adam({"lr": 0.01})
        svi = dv.CompiledSVI(programs.model, programs.guide, adam, dv.TraceDenoising_ELBO())
        losses.append([svi.step(X) for _ in range(4)])  # silent: warnings are errors in these tests
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
