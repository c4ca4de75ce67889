"""Simulation-based calibration (Talts et al. 2018) of the whole procedure: simulate, train, weigh.

Latents are drawn from the prior and data from them, and a guide is trained with the denoising bound. The
ranks of the latents among the importance-weighted draws of ``log_likelihood`` are uniform, whatever it is.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_dvae as dv

ROWS, SAMPLES = 500, 200


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)


class LinearGaussian(nn.Module):
    """z ~ N(0, I) of two elements, x ~ N(Wz, I/4); the guide is diagonal, which the posterior is not."""

    corruption = dv.GaussianNoise(0.3)
    shift = (0.3, -0.3, 0.1, 0.1)

    def __init__(self):
        super().__init__()
        self.weight = torch.tensor([[1.0, 0.6, -0.4], [0.8, -0.2, 0.5]])
        self.encoder = nn.Linear(3, 4)

    def draw(self, rows):
        z = torch.randn(rows, 2)
        return z, z @ self.weight + 0.5 * torch.randn(rows, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 0.5).to_event(1), obs=x)

    def posterior(self, tilde):
        loc, log_scale = self.encoder(tilde).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def log_joint(self, z, x):
        likelihood = stats.norm.logpdf(x.numpy(), (z @ self.weight).numpy(), 0.5).sum(-1)
        return torch.as_tensor(stats.norm.logpdf(z.numpy()).sum(-1) + likelihood)

    def figures(self, z):
        """Return what is ranked, [..., number]."""
        return torch.stack([z[..., 0], z[..., 1], z.prod(-1)], -1)


class BernoulliMixture(nn.Module):
    """One of three classes, x of five bits."""

    corruption = dv.BitFlip(0.1)
    shift = (0.8, 0.0, -0.8)

    def __init__(self):
        super().__init__()
        self.shares = torch.tensor([0.5, 0.3, 0.2])
        self.bits = torch.tensor(
            [[0.8, 0.7, 0.3, 0.2, 0.5], [0.3, 0.6, 0.7, 0.5, 0.2], [0.4, 0.1, 0.5, 0.8, 0.7]]
        )
        self.encoder = nn.Linear(5, 3)

    def draw(self, rows):
        z = torch.multinomial(self.shares, rows, replacement=True)
        return z, torch.bernoulli(self.bits[z])

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(self.shares))
            pyro.sample("x", dist.Bernoulli(self.bits[z]).to_event(1), obs=x)

    def posterior(self, tilde):
        return dist.Categorical(logits=self.encoder(tilde))

    def log_joint(self, z, x):
        p = self.bits[z]
        return self.shares[z].log() + torch.where(x.bool(), p, 1 - p).log().sum(-1)

    def figures(self, z):
        return z.double().unsqueeze(-1)


class Recorded:
    """The guide of a problem, which keeps what it drew, and for which rows."""

    def __init__(self, problem):
        self.problem, self.calls = problem, []

    def __call__(self, x):
        pyro.module("encoder", self.problem.encoder)
        with pyro.plate("data", len(x)):
            tilde = dv.corrupt("x_tilde", self.problem.corruption, x)
            posterior = self.problem.posterior(tilde)
            z = pyro.sample("z", posterior)
        event = posterior.event_dim
        batch = torch.broadcast_shapes(z.shape[: z.dim() - event], tilde.shape[:-1])
        flat = z.expand(*batch, *z.shape[z.dim() - event :]).reshape(-1, len(x), *z.shape[z.dim() - event :])
        self.calls.append(flat.detach())


def trained(problem, guide):
    _, x = problem.draw(500)
    bound = dv.TraceDenoising_ELBO(num_particles=2)
    svi = pyro.infer.SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.05}), loss=bound)
    for _ in range(150):
        svi.step(x)
    with torch.no_grad():  # away from its optimum, so that the weights matter
        problem.encoder.bias += torch.tensor(problem.shift)


def ranks(problem, draws, weights, truth):
    """Return the posterior probability below the truth, ties broken at random, [ROWS, figures]."""
    drawn, true = problem.figures(draws), problem.figures(truth).unsqueeze(1)
    below = (weights.unsqueeze(-1) * (drawn < true)).sum(1)
    equal = (weights.unsqueeze(-1) * (drawn == true)).sum(1)
    return below + torch.rand(below.shape) * equal


def p_values(rank):
    """Return the smallest p-value of a Kolmogorov-Smirnov and of a chi-square test in 20 bins."""
    counts = torch.histc(rank, 20, 0, 1).numpy()
    return min(stats.kstest(rank.numpy(), "uniform").pvalue, stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("proposal", ["clean", "corrupted", "mixture"])
@pytest.mark.parametrize("kind", [LinearGaussian, BernoulliMixture])
def test_ranks_of_true_latents_are_uniform(kind, proposal):
    problem = kind()
    guide = Recorded(problem)
    trained(problem, guide)
    truth, x = problem.draw(ROWS)
    guide.calls.clear()
    found = dv.log_likelihood(
        problem.model,
        guide,
        x,
        num_samples=SAMPLES,
        proposal=proposal,
        num_corruptions=5,
        compile=False,
        keep_log_weight=True,
        seed=1,
        max_plate_nesting=1,
    )
    draws = by_row(guide.calls, found)
    weights = found.log_weight.softmax(-1)
    if proposal == "clean":  # whose density is that of the draw alone
        wide = x.unsqueeze(1).expand(-1, found.num_samples, -1)
        expected = problem.log_joint(draws, wide) - problem.posterior(x.unsqueeze(1)).log_prob(draws).detach()
        torch.testing.assert_close(found.log_weight, expected, rtol=1e-9, atol=1e-9)
    for each in ranks(problem, draws, weights, truth).unbind(-1):
        assert p_values(each) > 0.002
    # The guide alone is not calibrated, and the tests detect it.
    alone = torch.full_like(weights, 1 / weights.shape[1])
    assert min(p_values(each) for each in ranks(problem, draws, alone, truth).unbind(-1)) < 1e-4


def by_row(calls, found):
    """Return the draws of the evaluation itself, [rows, samples, ...]: its chunks come last, in order.

    Before them come looks at the programs; of a mixture each pass evaluates its draws in a second run.
    """
    rows, samples = found.log_weight.shape
    data = calls[-1].shape[1]
    per_pass = min(len(draws) for draws in calls[-2:])
    passes = samples // per_pass
    chunks = math.ceil(rows / data)
    own = [draws for draws in calls if draws.shape[:2] == (per_pass, data)][-chunks * passes :]
    parts = [torch.cat(own[start : start + passes]) for start in range(0, len(own), passes)]
    return torch.cat(parts, 1)[:, :rows].transpose(0, 1)
