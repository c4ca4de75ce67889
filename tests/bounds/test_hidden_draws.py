"""Programs with small amounts of noise outside of their sites are not refused as not vectorising."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dvae as dv


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1e-1])
def test_hidden_noise_of_any_size_is_accepted(scale):
    x = torch.zeros(3, 4)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))
            hidden = scale * torch.randn(*z.shape[:-2], 1, 4)  # weights of a predictive model, say
            pyro.sample("x", dist.Normal(z + hidden, 0.01).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 0.01).to_event(1))

    for seed in range(20):
        pyro.set_rng_seed(seed)
        assert dv.TraceDenoising_ELBO(num_corruptions=5).loss(model, guide, x) < float("inf")
