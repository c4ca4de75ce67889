"""Score functions in a plate that another latent follows: which costs belong to an element."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_dvae as dv

X = torch.tensor([1.5, -0.5, 0.2], dtype=torch.float64)


def pair(between=lambda x_tilde: x_tilde, reads=lambda bit: 0.0):
    """A corruption and two bits in a plate, then a latent outside of it that reads what ``reads`` gives."""
    a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.3, 0.6))

    def model():
        z = pyro.sample("z", dist.Normal(X.new_zeros(()), 1.0))
        with pyro.plate("elements", 3):
            bit = pyro.sample("bit", dist.Bernoulli(X.new_full((3,), 0.5)))
            other = pyro.sample("other", dist.Bernoulli(X.new_full((3,), 0.5)))
            pyro.sample("x", dist.Normal(z * bit + other, 1.0), obs=X)

    def guide():
        with pyro.plate("elements", 3):
            x_tilde = between(dv.corrupt("x_tilde", dv.Masking(b), X, event_dim=0))
            bit = pyro.sample("bit", dist.Bernoulli(logits=a + x_tilde))
            pyro.sample("other", dist.Bernoulli(logits=a - bit))
        pyro.sample("z", dist.Normal(a + reads(bit), 1.0))

    return model, guide, (a, b)


def test_a_latent_that_reads_no_element_joins_none():
    model, guide, parameters = pair()
    found = []
    for bound in (Trace_ELBO(), dv.TraceDenoising_ELBO(baseline="none")):
        pyro.set_rng_seed(0)
        found.append(torch.stack(torch.autograd.grad(bound.differentiable_loss(model, guide), parameters)))
    assert bool((found[0] != 0).all())
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=0)


def test_only_what_a_latent_reads_is_joined():
    model, guide, _ = pair(reads=lambda bit: bit.mean(-1, keepdim=True))
    bound = dv.TraceDenoising_ELBO(baseline="none")
    pyro.set_rng_seed(0)
    draws = bound.draws(model, guide, (), {})
    sites = draws.guide_trace.nodes
    joining = {name: bound._joining(draws, sites[name], {"elements"}) for name in ("x_tilde", "bit", "other")}
    assert joining == {"x_tilde": {"elements"}, "bit": {"elements"}, "other": set()}


@pytest.mark.parametrize("kind", [dv.TraceDenoising_ELBO, dv.TraceMeanFieldDenoising_ELBO])
def test_the_run_that_finds_who_reads_whom_leaves_nothing_behind(kind):
    normalisation = torch.nn.BatchNorm1d(1).double()
    seen = []

    def normalised(x_tilde):
        seen.append(float(x_tilde.mean()))
        return normalisation(x_tilde.unsqueeze(-1)).squeeze(-1)

    model, guide, _ = pair(normalised)
    bound = kind()
    bound.loss_and_grads(model, guide)
    assert float(normalisation.running_mean) == pytest.approx(0.1 * seen[0], rel=1e-12)
    losses = []
    for each in (bound, pickle.loads(pickle.dumps(bound))):  # the programs are local functions
        pyro.set_rng_seed(0)
        losses.append(each.loss(model, guide))
    assert losses[0] == losses[1]
