"""Pyro's flows as guides, also those without an inverse, whose density is known only at their own draws."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from pyro.distributions import transforms
from pyro.infer import Trace_ELBO

import pyro_dvae as dv
from pyro_dvae.errors import InputError

FLOWS = {
    "planar": partial(transforms.planar, 2),
    "conditional planar": partial(transforms.conditional_planar, 2, 3, [4]),
    "radial": partial(transforms.radial, 2),
    "sylvester": partial(transforms.sylvester, 2, 1),
    "neural autoregressive": partial(transforms.neural_autoregressive, 2, [4]),
    "block autoregressive": partial(transforms.block_autoregressive, 2),
}
BOUNDS = [
    partial(dv.TraceDenoising_ELBO, num_corruptions=2, num_particles=3),
    partial(dv.TraceMeanFieldDenoising_ELBO, num_particles=3),
    partial(dv.TraceDenoisingIWAE_ELBO, num_corruptions=2, num_particles=3),
    partial(dv.TraceDenoisingIWAE_ELBO, num_corruptions=2, num_particles=3, combine="pooled"),
]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def pair(name, noise=0.2):
    torch.manual_seed(2)
    problem, flow = LinearGaussian(), FLOWS[name]()

    def guide(x):
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            noisy = dv.corrupt("x_tilde", dv.GaussianNoise(noise), x)
            base = dist.Normal(noisy @ problem.A.T, 0.7).to_event(1)
            if isinstance(flow, dist.ConditionalTransform):
                fn = dist.ConditionalTransformedDistribution(base, [flow]).condition(noisy)
            else:
                fn = dist.TransformedDistribution(base, [flow])
            pyro.sample("z", fn)

    return problem, guide


@pytest.mark.parametrize("name", FLOWS)
def test_several_draws_have_the_expectation_of_one(name):
    problem, guide = pair(name)
    x = torch.randn(3, 3)
    with torch.no_grad():
        many = x.repeat(2000, 1)
        one = [
            bound.per_datum(problem.model, guide, many) for bound in (dv.TraceDenoising_ELBO(), BOUNDS[0]())
        ]
        one.append(torch.full_like(one[0], -Trace_ELBO().loss(problem.model, guide, many) / len(many)))
        for value in one[1:]:
            gap = (one[0] - value).mean()
            assert abs(float(gap)) < 5 * float((one[0].var() + value.var()).sqrt()) / len(many) ** 0.5


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", FLOWS)
def test_every_draw_may_be_followed_by_a_gradient(name, bound):
    problem, guide = pair(name)
    bound().loss_and_grads(problem.model, guide, torch.randn(3, 3))
    flow = [value for key, value in pyro.get_param_store().named_parameters() if key.startswith("flow")]
    assert flow
    assert all(leaf.grad is not None and bool(leaf.grad.isfinite().all()) for leaf in flow)


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "block autoregressive"])  # a bad proposal
def test_a_likelihood_is_proposed_from_the_flow(name):
    problem, guide = pair(name)
    x = torch.randn(3, 3)
    found = dv.log_likelihood(problem.model, guide, x, num_samples=4000, seed=1, compile=False)
    trusted = found.pareto_k < 0.7
    off = (found.log_likelihood - problem.log_evidence(x)).abs() - 5 * found.standard_error
    assert bool(trusted.any())
    assert bool((off[trusted] < 0).all())
    assert "pathwise" in str(dv.check(problem.model, guide, x, loss=dv.TraceDenoising_ELBO()))


def test_what_needs_the_density_of_other_draws_is_refused():
    problem, guide = pair("conditional planar")
    x = torch.randn(3, 3)
    mixture = dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=2, combine="mixture")
    for bound in (mixture, dv.TraceSemiImplicit_ELBO(num_mixture=2)):
        with pytest.raises(InputError, match=r"flow without an inverse.*combine='pooled'"):
            bound.loss(problem.model, guide, x)
    with pytest.raises(InputError, match=r"flow without an inverse.*proposal='clean'"):
        dv.log_likelihood(problem.model, guide, x, proposal="mixture")
    with pytest.raises(InputError, match=r"flow without an inverse.*gradient='pathwise'"):
        dv.TraceDenoising_ELBO(gradient="stl").loss_and_grads(problem.model, guide, x)


@pytest.mark.parametrize("name", [name for name in FLOWS if not name.startswith("conditional")])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_prior_without_an_inverse_is_refused(name, particles):
    """Its density is wanted at the draws of the guide."""
    problem, flow = LinearGaussian(), FLOWS[name]()

    def model(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
            pyro.sample("x", dist.Normal(z @ problem.W.T, 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"^model: it has a flow without an inverse"):
        dv.TraceDenoising_ELBO(num_particles=particles).loss(model, problem.plain_guide, torch.randn(4, 3))
