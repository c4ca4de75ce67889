"""Networks with a state of their own, complex weights or gradients inside, and rounded latents."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.nn.utils import spectral_norm as older_spectral_norm
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

import pyro_dvae as dv


@pytest.fixture(autouse=True)
def _double(interpreted):
    torch.set_default_dtype(torch.float64)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))

    def forward(self, x):
        return (x.to(torch.complex128) @ self.weight).abs()


class OwnGradient(nn.Module):
    """An encoder that differentiates its first layers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(torch.func.grad(lambda y: self.inner(y).square().sum())(x))


class Codebook(nn.Module):
    """Moving averages that every run in training mode updates, as in a VQ-VAE."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        h = self.linear(x)
        if self.training:
            self.centre.lerp_(h.detach().mean(0), 0.1)
            self.total += 1
        return h - self.centre


NETWORKS = {
    "spectral norm": lambda: spectral_norm(nn.Linear(3, 2)),
    "spectral norm, by hooks": lambda: older_spectral_norm(nn.Linear(3, 2)),
    "orthogonal weight": lambda: orthogonal(nn.Linear(3, 2)),
    "complex weight": Complex,
    "its own gradient": OwnGradient,
    "moving averages": Codebook,
}
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pair(name):
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    network = NETWORKS[name]()

    def model(x):
        weight = pyro.param("weight", torch.ones(2, 3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", network)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x), 0.5).to_event(1))

    return network, model, guide


def evaluated(name, elbo, wrap=lambda guide: guide):
    network, model, guide = pair(name)
    pyro.set_rng_seed(3)
    with poutine.trace(param_only=True) as found:
        loss = elbo.loss_and_grads(model, wrap(guide), X)
    leaves = {key: site["value"].unconstrained() for key, site in found.trace.nodes.items()}
    gradients = {key: leaf.grad.clone() for key, leaf in leaves.items() if leaf.grad is not None}
    return loss, gradients, {key: buffer.clone() for key, buffer in network.named_buffers()}


def assert_equal(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=1e-12)
    for ours, stock in zip(found[1:], wanted[1:], strict=True):
        assert ours.keys() == stock.keys()
        for key, value in stock.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("particles", [1, 3])
def test_runs_that_inspect_a_pair_change_no_state_of_its_modules(name, particles):
    stock = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    wanted = evaluated(name, stock)
    assert_equal(evaluated(name, dv.TraceDenoising_ELBO(num_particles=particles)), wanted)
    if particles == 1:

        def wrap(guide):
            return dv.DenoisingGuide(guide, dv.NoCorruption())

        assert_equal(evaluated(name, dv.TraceDenoising_ELBO(), wrap), wanted)
        assert_equal(evaluated(name, dv.TraceSemiImplicit_ELBO(num_mixture=0)), wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_steps_equal_those_of_svi(name):
    losses, buffers = [], []
    for kind in (SVI, dv.CompiledSVI):
        network, model, guide = pair(name)
        svi = kind(model, guide, Adam({"lr": 0.05}), dv.TraceDenoising_ELBO(num_particles=2))
        pyro.set_rng_seed(4)
        losses.append([svi.step(X) for _ in range(4)])
        buffers.append({key: value.clone() for key, value in network.named_buffers()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    torch.testing.assert_close(buffers[1], buffers[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("compiled", [False, True])
def test_fit_trains_them(name, compiled):
    _, model, guide = pair(name)
    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 40, "batch_size": 5, "learning_rate": 0.03}
    bounds = dv.fit(model, guide, X, **options, compile=compiled, progress=False).history.train_bound
    assert bounds[-1] > bounds[0] + 1


def straight_through(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.RelaxedBernoulliStraightThrough(torch.tensor(0.7), probs=torch.tensor(0.5)))
        pyro.sample("x", dist.Normal(2.0 * z, 0.8), obs=x)


def rounded_guide(x):
    slope = pyro.param("slope", torch.tensor(0.4))
    with pyro.plate("data", len(x)):
        fn = dist.RelaxedBernoulliStraightThrough(torch.tensor(0.7), logits=slope * x)
        pyro.sample("z", fn)


@pytest.mark.parametrize("kind", ["one pass", "in turn"])
def test_a_straight_through_draw_keeps_its_unrounded_value(kind):
    """Its density is taken at a value that only the draw itself carries, so the draws are not compared."""
    found = []
    for elbo in (Trace_ELBO, dv.TraceDenoising_ELBO):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        options = {"num_particles": 3, "vectorize_particles": kind == "one pass", "max_plate_nesting": 1}
        loss = elbo(**options).loss_and_grads(straight_through, rounded_guide, X[:, 0])
        found.append((loss, pyro.param("slope").grad.item()))
    assert found[1] == pytest.approx(found[0], rel=1e-12)


def test_the_likelihood_of_a_rounded_latent():
    """P(z = 1) = 1/2, as the relaxed value lies above 1/2."""
    pyro.clear_param_store()
    x = X[:, 0]
    found = dv.log_likelihood(straight_through, rounded_guide, x, num_samples=4000, seed=0)
    both = torch.stack([dist.Normal(2.0 * z, 0.8).log_prob(x) for z in (0, 1)])
    wanted = torch.logsumexp(both, 0) - torch.tensor(2.0).log()
    assert ((found.log_likelihood - wanted).abs() < 4.5 * found.standard_error).all()


@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(gradient="stl"),
        dv.TraceDenoisingIWAE_ELBO(num_particles=2, gradient="dreg"),
        dv.TraceDenoisingIWAE_ELBO(num_particles=2, gradient="dreg", vectorize_particles=False),
    ],
)
def test_gradients_at_given_draws_are_refused_for_rounded_latents(bound):
    with pytest.raises(dv.InputError, match=r"'z' is rounded .* use gradient='pathwise'"):
        bound.loss_and_grads(straight_through, rounded_guide, X[:, 0])
