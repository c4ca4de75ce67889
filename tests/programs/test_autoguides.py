"""Pyro's AutoGuides: every bound uses their densities as Pyro's Trace_ELBO does, and can reach log p(x)."""

import math
import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, autoguide

import pyro_dvae as dv
from pyro_dvae.errors import InputError

X = torch.tensor([0.7, -0.4, 1.9, 0.1], dtype=torch.float64)
NOISE = 0.5


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    with warnings.catch_warnings():
        # If all rows share a latent, one weight is of all rows; one warning says so.
        warnings.filterwarnings("ignore", ".*one importance weight.*")
        yield


def local(x):
    """A latent of each row: z ~ N(0, 1), x ~ N(z, NOISE²)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def shared(x):
    """A latent of all rows: z ~ N(0, 1), x ~ N(z, NOISE²)."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def constrained(x):
    """A positive latent of all rows, and one in (0, 1) and one of two elements of each row."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1) * share, scale), obs=x)


def guide_list(model):
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoNormal(poutine.block(model, hide=["x"])))
    return guides


def structured(model):
    return autoguide.AutoStructured(model, conditionals="normal", dependencies={})


def laplace(x):
    """Return a guide of ``local`` fitted by the curvature at the mode."""

    def make(model):
        guide = autoguide.AutoLaplaceApproximation(model)
        guide(x)
        with torch.no_grad():
            guide.loc.copy_(posterior(model)[0])
        return guide.laplace_approximation(x)

    return make


GUIDES = {
    "AutoDelta": autoguide.AutoDelta,
    "AutoNormal": autoguide.AutoNormal,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": autoguide.AutoLowRankMultivariateNormal,
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "AutoGaussian": autoguide.AutoGaussian,
    "AutoStructured": structured,
    "AutoGuideList": guide_list,
    "AutoNormalMessenger": autoguide.AutoNormalMessenger,
    "AutoHierarchicalNormalMessenger": autoguide.AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": autoguide.AutoRegressiveMessenger,
    "AutoLaplaceApproximation": laplace(X),
}
AT_ONE_DRAW = {
    "denoising": lambda: dv.TraceDenoising_ELBO(),
    "mean field": lambda: dv.TraceMeanFieldDenoising_ELBO(),
    "average": lambda: dv.TraceDenoisingIWAE_ELBO(),
    "pooled": lambda: dv.TraceDenoisingIWAE_ELBO(combine="pooled"),
    "mixture": lambda: dv.TraceDenoisingIWAE_ELBO(combine="mixture"),
    "semi-implicit": lambda: dv.TraceSemiImplicit_ELBO(num_mixture=0),
}


def made(name, model):
    """Return a guide, run once, whose parameters are not at their initial values."""
    guide = GUIDES[name](model)
    guide(X)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return guide


def posterior(model):
    """Return mean and scale of the exact posterior of ``local`` or ``shared``, and log p(x)."""
    if model is local:
        precision = 1 + 1 / NOISE**2
        return X / NOISE**2 / precision, precision**-0.5, local_evidence().sum()
    precision = 1 + len(X) / NOISE**2
    covariance = torch.ones(len(X), len(X)) + NOISE**2 * torch.eye(len(X))
    evidence = dist.MultivariateNormal(torch.zeros(len(X)), covariance).log_prob(X)
    return X.sum().reshape(1) / NOISE**2 / precision, precision**-0.5, evidence


def local_evidence():
    return dist.Normal(0.0, math.sqrt(1 + NOISE**2)).log_prob(X)


def evaluated(bound, model, guide):
    """Return loss and gradients from one random state."""
    for parameter in guide.parameters():
        parameter.grad = None
    pyro.set_rng_seed(3)
    loss = bound.loss_and_grads(model, guide, X)
    return loss, {name: p.grad for name, p in guide.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model", [local, shared, constrained])
@pytest.mark.parametrize("bound", AT_ONE_DRAW)
@pytest.mark.parametrize("name", GUIDES)
def test_one_draw_is_stock(name, bound, model):
    if name == "AutoLaplaceApproximation" and model is constrained:
        pytest.skip("the mode of this model is not set")
    if name == "AutoIAFNormal" and model is shared:
        pytest.skip("an inverse autoregressive flow needs two dimensions")
    guide = made(name, model)
    loss, gradients = evaluated(AT_ONE_DRAW[bound](), model, guide)
    stock, wanted = evaluated(Trace_ELBO(), model, guide)
    assert loss == pytest.approx(stock, rel=1e-9)
    assert set(gradients) == set(wanted)
    for each, gradient in wanted.items():
        torch.testing.assert_close(gradients[each], gradient, rtol=1e-8, atol=1e-9)


EXACT = [
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
    "AutoLaplaceApproximation",
    "AutoGuideList",
    "AutoNormalMessenger",
    "AutoHierarchicalNormalMessenger",
    "AutoRegressiveMessenger",
]
SEVERAL = {
    "denoising": lambda **o: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, **o),
    "stl": lambda **o: dv.TraceDenoising_ELBO(num_particles=3, gradient="stl", **o),
    "mean field": lambda **o: dv.TraceMeanFieldDenoising_ELBO(num_particles=3, **o),
    "average": lambda **o: dv.TraceDenoisingIWAE_ELBO(num_particles=3, **o),
    "dreg": lambda **o: dv.TraceDenoisingIWAE_ELBO(num_particles=3, gradient="dreg", **o),
    "pooled": lambda **o: dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=2, num_particles=3, combine="pooled", **o
    ),
    "mixture": lambda **o: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, combine="mixture", **o),
    "semi-implicit": lambda **o: dv.TraceSemiImplicit_ELBO(num_mixture=2, num_particles=2, **o),
}


def exact_guide(name, model):
    """Return a guide that is the exact posterior."""
    loc, scale, _ = posterior(model)
    guide = GUIDES[name](model)
    guide(X)
    if name == "AutoLaplaceApproximation":
        return guide
    own = guide[0] if name == "AutoGuideList" else guide
    with torch.no_grad():
        if hasattr(own, "locs"):
            shape = own.locs.z.shape
            own.locs.z = loc.reshape(shape).clone()
            own.scales.z = torch.full(shape, scale)
        else:
            own.loc.copy_(loc)
            own.scale = torch.full(own.scale.shape, scale)
            if hasattr(own, "cov_factor"):
                own.cov_factor.zero_()
    return guide


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("model", [local, shared])
@pytest.mark.parametrize("bound", SEVERAL)
@pytest.mark.parametrize("name", EXACT)
def test_at_the_exact_posterior_every_draw_gives_the_evidence(name, bound, model, vectorized):
    """The weight of every draw is p(x), so each bound is log p(x); some gradients are 0."""
    guide = exact_guide(name, model)
    several = SEVERAL[bound](vectorize_particles=vectorized)
    loss, gradients = evaluated(several, model, guide)
    assert -loss == pytest.approx(float(posterior(model)[2]), rel=1e-9)
    if bound in ("stl", "dreg"):
        for gradient in gradients.values():
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)


@pytest.mark.parametrize("model", [local, shared])
@pytest.mark.parametrize("name", EXACT)
def test_log_likelihood_is_exact_or_names_the_remedy(name, model):
    """These guides have parameters for each row, in the plate or in one site outside of it."""
    found = estimated(model, exact_guide(name, model), X)
    if isinstance(found, InputError):
        remedies = r"rows|observations|vectorize" if model is local else r"share|vectorize"
        assert re.search(remedies, str(found))
        return
    assert model is local
    torch.testing.assert_close(found.log_likelihood, local_evidence(), rtol=1e-9, atol=1e-9)


def test_an_autoguide_of_other_rows_is_refused():
    guide = autoguide.AutoNormal(local)
    guide(X)
    assert isinstance(estimated(local, guide, X[:3]), InputError)


def estimated(model, guide, x):
    """Return the estimate, or the refusal."""
    try:
        return dv.log_likelihood(model, guide, x, num_samples=50, seed=0)
    except InputError as error:
        return error
