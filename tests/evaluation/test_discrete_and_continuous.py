"""Models with discrete and continuous latents, against a mixture of Gaussians in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.rows import Data

K, L, D, SCALE = 3, 2, 4, 0.7
DRAWN = torch.Generator().manual_seed(0)
WEIGHT = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
PRIOR, LOADING, SHIFT = (
    torch.randn(size, generator=DRAWN, dtype=torch.float64) for size in ((K, L), (D, L), (K, D))
)
MEAN = PRIOR @ LOADING.T + SHIFT  # of x given y
COVARIANCE = LOADING @ LOADING.T + SCALE**2 * torch.eye(D, dtype=torch.float64)


def model(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHT))
        z = pyro.sample("z", dist.Normal(PRIOR[y], 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADING.T + SHIFT[y], SCALE).to_event(1), obs=x)


def enumerated(x):
    """The model as :class:`~pyro.infer.TraceEnum_ELBO` takes it: no guide samples the discrete latent."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHT), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(PRIOR[y], 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADING.T + SHIFT[y], SCALE).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(len(x), K, dtype=x.dtype) / K))
        pyro.sample("z", dist.Normal(0.5 * PRIOR[y] + 0.1, 1.2).to_event(1))


def guide_without(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.5).to_event(1))


def guide_with_auxiliary(x):
    with pyro.plate("data", len(x)):
        w = pyro.sample("w", dist.Normal(x.new_zeros(len(x)), 0.3), infer={"is_auxiliary": True})
        y = pyro.sample("y", dist.Categorical(torch.ones(len(x), K, dtype=x.dtype) / K))
        pyro.sample("z", dist.Normal(0.5 * PRIOR[y] + w.unsqueeze(-1), 1.2).to_event(1))


def mixture(columns=range(D)):
    at = torch.tensor(list(columns))
    given = dist.MultivariateNormal(MEAN[:, at], COVARIANCE[at][:, at])
    return dist.MixtureSameFamily(dist.Categorical(WEIGHT), given)


def rows(count=6):
    torch.manual_seed(1)
    return mixture().sample((count,))


def test_density_and_gradient_are_sums_over_the_discrete_latent():
    x = rows()
    u = torch.randn(5, len(x), L, dtype=torch.float64).requires_grad_()
    latent = dist.Normal(PRIOR[:, None, None], 1.0).to_event(1).log_prob(u)
    data = dist.Normal(u @ LOADING.T + SHIFT[:, None, None], SCALE).to_event(1).log_prob(x)
    expected = (WEIGHT.log()[:, None, None] + latent + data).logsumexp(0)
    (slope,) = torch.autograd.grad(expected.sum(), u)
    given = Data.of_tensors(x)
    with torch.no_grad():
        targets = Targets(model, guide, given, compiled=False)
        value, gradient = targets.gradient(u.detach(), given[:])
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, slope)


@pytest.mark.parametrize(
    ("program", "start"),
    [
        (model, None),
        (model, guide),
        (model, guide_without),
        (model, guide_with_auxiliary),
        (enumerated, guide_without),
    ],
)
def test_annealed_weights_are_unbiased(program, start):
    x = rows()
    found = dv.annealed_log_likelihood(
        program,
        start,
        x,
        start="prior" if start is None else "guide",
        num_steps=3,
        num_chains=300,
        leapfrog_steps=2,
        seed=0,
        progress=False,
    )
    assert ((found.log_likelihood - mixture().log_prob(x)).abs() < 4.5 * found.standard_error).all()
    assert found.standard_error.median() < 0.5


def test_bidirectional_bounds_hold_the_truth():
    options = {"num_steps": 20, "num_chains": 10, "leapfrog_steps": 4, "seed": 0, "progress": False}
    found = dv.bidirectional(model, None, rows(30), **options)
    exact = mixture().log_prob(found.x).mean()
    assert found.lower.mean - 0.1 < exact < found.upper.mean + 0.1
    assert found.upper.mean - found.lower.mean < 1


def test_refined_likelihood():
    x = rows()
    found = dv.log_likelihood(model, guide, x, num_samples=2000, refine=True, seed=0, progress=False)
    assert ((found.log_likelihood - mixture().log_prob(x)).abs() < 5 * found.standard_error + 1e-3).all()


@pytest.mark.parametrize(("program", "own"), [(model, guide), (enumerated, guide_without)])
def test_missing_cells_have_the_conditional_distribution(program, own):
    x, seen, gaps = rows(), [0, 1, 2], [3]
    x[:, gaps] = math.nan
    found = dv.condition(program, own, x, num_draws=2000, num_samples=4000, seed=0, progress=False)
    good = found.reliable
    assert good.sum() >= 4
    of_seen = dist.MultivariateNormal(MEAN[:, seen], COVARIANCE[seen][:, seen]).log_prob(x[:, None, seen])
    weight = (WEIGHT.log() + of_seen).softmax(1)
    slope = COVARIANCE[gaps][:, seen] @ torch.linalg.inv(COVARIANCE[seen][:, seen])
    mean = (MEAN[:, gaps] + (x[:, None, seen] - MEAN[:, seen]) @ slope.T).squeeze(-1)
    spread = (COVARIANCE[gaps][:, gaps] - slope @ COVARIANCE[seen][:, gaps]).squeeze()
    expected = (weight * mean).sum(1)
    deviation = ((weight * (mean**2 + spread)).sum(1) - expected**2).sqrt()
    draws = found.draws[..., 3]
    assert (((found.mean[:, 3] - expected) / deviation)[good].abs() < 0.15).all()
    assert ((draws.std(0) / deviation)[good] - 1).abs().max() < 0.15
    exact = mixture(seen).log_prob(x[:, seen])
    assert ((found.log_likelihood - exact)[good].abs() < 5 * found.standard_error[good] + 1e-3).all()


def test_labels_after_the_continuous_latent_as_in_semi_supervised_models():
    """One-hot labels, concatenated with the code: both have one value for each draw and row."""
    torch.manual_seed(0)
    decoder = nn.Linear(L + K, D).double()

    def labelled(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(WEIGHT.expand(len(x), K)), obs=y)
            both = torch.cat([z, y.to(z).expand(*z.shape[:-1], K)], -1)
            pyro.sample("x", dist.Normal(decoder(both), SCALE).to_event(1), obs=x)

    def own(x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.OneHotCategorical(WEIGHT.expand(len(x), K)))
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))

    x = rows(3)
    pattern = decoder.weight[:, :L]
    of_label = dist.MultivariateNormal(
        decoder.weight[:, L:].T + decoder.bias, pattern @ pattern.T + SCALE**2 * torch.eye(D)
    ).log_prob(x[:, None])
    options = {"num_samples": 1000, "refine": True, "seed": 0, "progress": False}
    found = dv.log_likelihood(labelled, own, x, **options)
    given = dv.log_likelihood(labelled, own, x, torch.eye(K, dtype=x.dtype), **options)
    of_both = WEIGHT.log() + of_label.detach()
    for each, exact in ((found, of_both.logsumexp(1)), (given, of_both.diagonal())):
        assert ((each.log_likelihood - exact).abs() < 5 * each.standard_error + 1e-3).all()
        assert (each.standard_error < 0.05).all()


def test_a_vector_of_discrete_latents_is_refused():
    def bits(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.full((L,), 0.5, dtype=x.dtype)).to_event(1))
            z = pyro.sample("z", dist.Normal(y, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)

    with pytest.raises(InputError, match="the discrete latent 'y' cannot be listed: it is a vector"):
        dv.annealed_log_likelihood(bits, None, rows(), start="prior", progress=False)


def test_the_gaps_of_a_discrete_latent_are_refused():
    with pytest.raises(InputError, match="latent 'y' is discrete, so the posterior has no best Gaussian"):
        dv.inference_gaps(model, guide, rows(), progress=False)


def test_discrete_latents_that_depend_on_each_other_and_on_the_continuous_one():
    def layered(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            a = pyro.sample("a", dist.Bernoulli(logits=z[..., 0])).to(z)
            logits = torch.stack([z[..., 1], 2 * a, z[..., 0]], -1)
            b = pyro.sample("b", dist.Categorical(logits=logits))
            loc = z @ LOADING.T + SHIFT[b] * (1 + a).unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, SCALE).to_event(1), obs=x)

    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("a", dist.Bernoulli(x.new_full((len(x),), 0.5)))

    x = rows()
    u = torch.randn(4, len(x), L, dtype=torch.float64)
    terms = []
    for a in (0.0, 1.0):
        of_a = dist.Bernoulli(logits=u[..., 0]).log_prob(torch.tensor(a, dtype=torch.float64))
        logits = torch.stack([u[..., 1], torch.full_like(u[..., 0], 2 * a), u[..., 0]], -1).log_softmax(-1)
        for b in range(3):
            data = dist.Normal(u @ LOADING.T + SHIFT[b] * (1 + a), SCALE).to_event(1).log_prob(x)
            terms.append(of_a + logits[..., b] + data)
    expected = torch.stack(terms).logsumexp(0) + dist.Normal(0.0, 1.0).log_prob(u).sum(-1)
    given = Data.of_tensors(x)
    with torch.no_grad():
        targets = Targets(layered, own, given, compiled=False)
        prior, likelihood = targets.log_densities(u, given[:])
    torch.testing.assert_close(prior + likelihood, expected)
    torch.testing.assert_close(prior, dist.Normal(0.0, 1.0).log_prob(u).sum(-1))
