"""Every measure runs the modules in evaluation mode and restores their mode."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae import evaluation
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.rows import Arguments

LABELS = torch.tensor([0, 1] * 10)
FIGURES = {
    "evaluate_bound": lambda m, g, x: (
        dv.evaluate_bound(m, g, x, loss=dv.TraceDenoising_ELBO(), seed=1).per_datum
    ),
    "bounds_report": lambda m, g, x: dv.bounds_report(
        m, g, x, num_mixture=1, num_particles=2, num_corruptions=2, num_samples=20, seed=1
    ).to_dict(True),
    "log_likelihood": lambda m, g, x: dv.log_likelihood(m, g, x, num_samples=20, seed=1).log_likelihood,
    "annealed_log_likelihood": lambda m, g, x: (
        dv.annealed_log_likelihood(m, g, x, num_steps=3, num_chains=2, start="guide", seed=1).log_likelihood
    ),
    "bidirectional": lambda m, g, x: dv.bidirectional(
        m, g, x, num_steps=3, num_chains=2, start="guide", seed=1
    ).to_dict(),
    "active_units": lambda m, g, x: evaluation.active_units(m, g, x, seed=1).activity["z"],
    "bound_parts": lambda m, g, x: evaluation.bound_parts(m, g, x, seed=1).bound.per_datum,
    "latent_means": lambda m, g, x: evaluation.latent_means(m, g, x, seed=1)["z"],
    "reconstruction_error": lambda m, g, x: evaluation.reconstruction_error(m, g, x, seed=1).to_dict(),
    "linear_probe": lambda m, g, x: evaluation.linear_probe(m, g, x, LABELS, x, LABELS, seed=1).to_dict(),
}


def pair():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    decoder = nn.Linear(2, 3).double()
    noise = dv.GaussianNoise(0.1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", noise, x)
            codes = network(x_tilde.reshape(-1, 3)).reshape(*x_tilde.shape[:-1], 2)
            pyro.sample("z", dist.Normal(codes, 0.5).to_event(1))

    return model, guide, network


SLOW = ("annealed_log_likelihood", "bidirectional")


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(each, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, each in FIGURES.items()
    ],
)
def test_evaluation_mode(figure):
    model, guide, network = pair()
    x = torch.randn(20, 3, dtype=torch.float64)
    network[1].running_mean += 1.0
    statistics = network[1].running_mean.clone()
    found = figure(model, guide, x)
    assert all(part.training for part in network.modules())
    assert torch.equal(network[1].running_mean, statistics)
    network.eval()
    again = figure(model, guide, x)
    assert torch.equal(found, again) if isinstance(found, torch.Tensor) else found == again
    assert not any(part.training for part in network.modules())


def test_modes_come_back_after_an_error():
    model, guide, network = pair()
    modes = []

    def fail():
        with evaluation_mode(model, guide, Arguments((torch.zeros(4, 3).double(),))):
            modes.append(network.training)
            raise ZeroDivisionError

    with pytest.raises(dv.InputError, match="ZeroDivisionError"):
        fail()
    assert modes == [False]
    assert network.training
