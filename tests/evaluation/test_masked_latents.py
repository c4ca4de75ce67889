"""Latents that a mask leaves out, as those after the end of a padded sequence, against exact values."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_dvae as dv


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


X = torch.tensor([[0.4, -0.8, 1.1], [0.9, 0.3, 5.0], [-0.7, 5.0, 5.0]], dtype=torch.float64)
KEPT = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)  # lengths 3, 2 and 1
FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.9, 1.0, 0.0], [0.81, 0.9, 1.0]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T + 0.25 * torch.eye(3, dtype=torch.float64)


def sequence(kept, step):
    with pyro.plate("data", len(kept)):
        z = 0.0
        for t in range(3):
            with poutine.mask(mask=kept[:, t].bool()):
                z = step(t, z)


def model(x, kept):
    def step(t, z):
        z = pyro.sample(f"z{t}", dist.Normal(0.9 * z, 1.0))
        pyro.sample(f"x{t}", dist.Normal(z, 0.5), obs=x[:, t])
        return z

    sequence(kept, step)


def by_distributions(x, kept):
    """The same model, whose masks belong to its distributions."""
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x))
        for t in range(3):
            keep = kept[:, t, None].bool()
            z = pyro.sample(f"z{t}", dist.Normal(0.9 * z[..., None], 1.0).mask(keep).to_event(1)).squeeze(-1)
            pyro.sample(f"x{t}", dist.Normal(z[..., None], 0.5).mask(keep).to_event(1), obs=x[:, t, None])


def guide(x, kept):
    sequence(kept, lambda t, z: pyro.sample(f"z{t}", dist.Normal(0.75 * x[:, t] + 0.15 * z, 0.5)))


def vector_guide(x, kept):
    with pyro.plate("data", len(x)):
        for t in range(3):
            fn = dist.Normal(0.7 * x[:, t, None], 0.6).mask(kept[:, t, None].bool())
            pyro.sample(f"z{t}", fn.to_event(1))


def evidence():
    found = []
    for x, n in zip(X, (3, 2, 1), strict=True):
        found.append(dist.MultivariateNormal(torch.zeros(n), COVARIANCE[:n, :n]).log_prob(x[:n]))
    return torch.stack(found)


PAIRS = {"handlers": (model, guide), "distributions": (by_distributions, vector_guide)}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("refine", [False, True])
def test_likelihood_of_padded_sequences(pair, refine):
    found = dv.log_likelihood(*PAIRS[pair], X, KEPT, num_samples=2000, refine=refine, seed=0, compile=False)
    assert ((found.log_likelihood - evidence()).abs() < 4.5 * found.standard_error + 1e-9).all()
    assert (found.pareto_k < 0.7).all()


@pytest.mark.parametrize("start", [None, pytest.param(guide, marks=pytest.mark.slow)])
def test_annealed_likelihood_of_padded_sequences(start):
    found = dv.annealed_log_likelihood(
        model,
        start,
        X,
        KEPT,
        start="prior" if start is None else "guide",
        num_steps=100,
        num_chains=64,
        seed=0,
        progress=False,
    )
    assert ((found.log_likelihood - evidence()).abs() < 4.5 * found.standard_error).all()


def test_padded_sequences_are_conditioned():
    x = X.clone()
    x[:, 0] = math.nan
    found = dv.condition(model, guide, x, KEPT, num_draws=2000, num_samples=2000, seed=0, progress=False)
    assert found.reliable.all()
    for row, n in enumerate((3, 2, 1)):
        weight = torch.linalg.solve(COVARIANCE[1:n, 1:n], COVARIANCE[1:n, 0])
        assert found.mean[row, 0].item() == pytest.approx(float(weight @ X[row, 1:n]), abs=0.1)


def test_discrete_latents_of_padded_sequences_are_summed_over():
    def chain(x, kept):
        def step(t, z):
            z = pyro.sample(f"z{t}", dist.Bernoulli(0.2 + 0.5 * z))
            pyro.sample(f"x{t}", dist.Normal(z, 0.5), obs=x[:, t])
            return z

        sequence(kept, step)

    def proposal(x, kept):
        sequence(kept, lambda t, z: pyro.sample(f"z{t}", dist.Bernoulli(0.5)))

    found = dv.condition(chain, proposal, X, KEPT, num_draws=2, seed=0, progress=False).log_likelihood
    start, moves = torch.tensor([0.8, 0.2]), torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    for row, n in enumerate((3, 2, 1)):
        forward = start
        for t in range(n):
            forward = forward if t == 0 else forward @ moves
            forward = forward * dist.Normal(torch.tensor([0.0, 1.0]), 0.5).log_prob(X[row, t]).exp()
        assert found[row].item() == pytest.approx(forward.sum().log().item(), rel=1e-9)


def partly_observed(x, kept):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x, obs_mask=kept.bool())


def of_partly_observed(masked):
    def own(x, kept):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.8 * x * kept, 0.7 + 0.5 * (1 - kept)))
            with poutine.mask(mask=~kept.bool() if masked else True):
                pyro.sample("x_unobserved", dist.Normal(z, 0.6))

    return own


def test_a_latent_masked_in_the_model_alone_has_no_likelihood():
    """``obs_mask=`` masks the values of observed rows; the guide has to, too, for weights of a density."""
    x, kept = X[:, 0], torch.tensor([1.0, 0.0, 1.0])
    with pytest.raises(dv.InputError, match=r"'x_unobserved' has other masks .* poutine\.mask"):
        dv.log_likelihood(partly_observed, of_partly_observed(False), x, kept)
    found = dv.log_likelihood(partly_observed, of_partly_observed(True), x, kept, num_samples=4000, seed=0)
    wanted = torch.where(kept.bool(), dist.Normal(0.0, math.sqrt(1.25)).log_prob(x), 0.0)
    assert ((found.log_likelihood - wanted).abs() < 4.5 * found.standard_error).all()


@pytest.mark.parametrize("further", [dist.Bernoulli(0.4), dist.Normal(0.0, 1.0)])
def test_a_counted_site_of_the_guide_alone_has_no_likelihood(further):
    """The mean of p(x, z) / q(z) q(u) is p(x) times the number of values of u."""

    def small(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def own(x, count=True):
        with pyro.plate("data", len(x)):
            if count:
                u = pyro.sample("u", further, infer={"is_auxiliary": True})
            else:
                u = dv.auxiliary("u", further)
            pyro.sample("z", dist.Normal(0.8 * x + 0.1 * u, 0.6))

    with pytest.raises(dv.InputError, match=r"'u' is not in the model.* pyro_dvae\.auxiliary"):
        dv.log_likelihood(small, own, X[:, 0])

    found = dv.log_likelihood(small, lambda x: own(x, False), X[:, 0], num_samples=4000, seed=0)
    wanted = dist.Normal(0.0, math.sqrt(1.25)).log_prob(X[:, 0])
    assert ((found.log_likelihood - wanted).abs() < 4.5 * found.standard_error).all()


def test_check_remarks_on_unequal_masks():
    x, kept = X[:, 0], torch.tensor([1.0, 0.0, 1.0])
    remarks = dv.check(partly_observed, of_partly_observed(False), x, kept).remarks
    assert any("'x_unobserved' has other masks in the guide than in the model" in each for each in remarks)
    assert not any(
        "masks" in each for each in dv.check(partly_observed, of_partly_observed(True), x, kept).remarks
    )
