import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from torch.distributions import MultivariateNormal

from pyro_dvae.evaluation.annealing import annealed_log_likelihood, bidirectional

double = torch.float64


def number(value):
    return torch.tensor(value, dtype=double)


class GammaPoisson:
    """z ~ Gamma(a, b), x|z ~ Poisson(z): a positive latent."""

    a, b = number(2.0), number(0.7)
    x = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(self.a, self.b))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def log_evidence(self, x):
        count = torch.lgamma(self.a + x) - torch.lgamma(x + 1) - torch.lgamma(self.a)
        return count + self.a * (self.b / (self.b + 1)).log() - x * (self.b + 1).log()


class BetaBernoulli:
    """z ~ Beta(a, b), x_d|z ~ Bernoulli(z): a latent in the unit interval."""

    a, b = number(0.8), number(1.5)
    x = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(self.a, self.b))
            pyro.sample("x", dist.Bernoulli(z.unsqueeze(-1)).expand([*z.shape, 4]).to_event(1), obs=x)

    def log_evidence(self, x):
        def log_beta(a, b):
            return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

        ones = x.sum(-1)
        return log_beta(self.a + ones, self.b + 4 - ones) - log_beta(self.a, self.b)


class DirichletMultinomial:
    """z ~ Dirichlet(α), x|z ~ Multinomial(6, z): a latent with one dimension less in unconstrained space."""

    concentration = torch.tensor([0.9, 1.6, 2.5], dtype=double)
    x = torch.tensor([[6.0, 0, 0], [1, 2, 3], [0, 3, 3]], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(self.concentration))
            pyro.sample("x", dist.Multinomial(6, z), obs=x)

    def log_evidence(self, x):
        return dist.DirichletMultinomial(self.concentration, 6).log_prob(x)


class MixtureOfNormals:
    """z ~ 0.3 N(-1, 0.5²) + 0.7 N(2, 1), x|z ~ N(z, 1): the support of a mixture is that of its parts."""

    weights, loc, scale = number([0.3, 0.7]), number([-1.0, 2.0]), number([0.5, 1.0])
    x = torch.tensor([-1.5, 0.0, 2.5], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            parts = dist.Normal(self.loc, self.scale)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(self.weights), parts))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def log_evidence(self, x):
        parts = dist.Normal(self.loc, (self.scale**2 + 1).sqrt()).log_prob(x.unsqueeze(-1))
        return torch.logsumexp(parts + self.weights.log(), -1)


class MixtureOfGammas(GammaPoisson):
    """z ~ 1/2 Gamma(2, 1) + 1/2 Gamma(9, 3), as one event of two of them, x|z ~ Poisson(z)."""

    a, b = number([2.0, 9.0]), number([1.0, 3.0])
    x = torch.tensor([[0.0, 4.0], [2.0, 1.0]], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            parts = dist.Gamma(self.a, self.b).expand([2, 2])
            mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2, 2, dtype=double)), parts)
            z = pyro.sample("z", mixture.to_event(1))
            pyro.sample("x", dist.Poisson(z).to_event(1), obs=x)

    def log_evidence(self, x):
        parts = super().log_evidence(x.unsqueeze(-1))
        return (torch.logsumexp(parts, -1) - math.log(2)).sum(-1)


class NestedUniforms:
    """z_1 ~ U(0, 1), z_2 ~ U(0, z_1), x ~ Bernoulli(z_2): the support of a latent is another latent."""

    x = torch.tensor([0.0, 1.0], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Uniform(number(0.0), number(1.0)))
            second = pyro.sample("second", dist.Uniform(number(0.0), first))
            pyro.sample("x", dist.Bernoulli(second), obs=x)

    def log_evidence(self, x):
        return torch.where(x == 1, 0.25, 0.75).log()


class LatentChain:
    """z_1 ~ N(0, I), z_2|z_1 ~ N(V z_1, 0.25 I), x|z_2 ~ N(W z_2, 0.36 I): two layers."""

    V = torch.tensor([[1.0, -0.5], [0.3, 0.8], [0.0, 1.2]], dtype=double)
    W = torch.tensor([[0.7, 0.2, -0.4], [0.1, 0.9, 0.5]], dtype=double)
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 1.0]], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            bottom = pyro.sample("bottom", dist.Normal(top @ self.V.T, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(bottom @ self.W.T, 0.6).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            bottom = pyro.sample("bottom", dist.Normal(x @ self.W, 1.0).to_event(1))
            pyro.sample("top", dist.Normal(bottom @ self.V / 2, 0.7).to_event(1))

    def log_evidence(self, x):
        bottom = self.V @ self.V.T + 0.25 * torch.eye(3, dtype=double)
        covariance = self.W @ bottom @ self.W.T + 0.36 * torch.eye(2, dtype=double)
        return MultivariateNormal(torch.zeros(2, dtype=double), covariance).log_prob(x)


class PlateInADatum:
    """u ~ N(0, 1), z_t ~ N(0, 1), x_t ~ N(u + z_t, 1) for t in a plate right of that of the data."""

    x = torch.tensor([[0.0, 1.0, -1.0], [2.0, 2.0, 1.0], [0.5, 0.0, 0.0]], dtype=double)  # as many data as t

    def model(self, x):
        with pyro.plate("rows", x.shape[0], dim=-2):
            u = pyro.sample("u", dist.Normal(number(0.0), 1.0))
            with pyro.plate("columns", x.shape[1], dim=-1):
                z = pyro.sample("z", dist.Normal(number(0.0), 1.0))
                pyro.sample("x", dist.Normal(u + z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("rows", x.shape[0], dim=-2):
            pyro.sample("u", dist.Normal(x.mean(-1, keepdim=True) / 2, 0.8))
            with pyro.plate("columns", x.shape[1], dim=-1):
                pyro.sample("z", dist.Normal(x / 3, 0.8))

    def log_evidence(self, x):
        covariance = 2 * torch.eye(3, dtype=double) + 1
        return MultivariateNormal(torch.zeros(3, dtype=double), covariance).log_prob(x)


class MatrixLatent:
    """z [2, 2] ~ N(0, 1), x [2] ~ N(row sums of z, 1): two event dimensions."""

    x = torch.tensor([[0.0, 1.0], [-2.0, 0.5]], dtype=double)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0).to_event(1), obs=x)

    def log_evidence(self, x):
        return dist.Normal(number(0.0), math.sqrt(3)).log_prob(x).sum(-1)


PROBLEMS = [
    GammaPoisson,
    BetaBernoulli,
    DirichletMultinomial,
    MixtureOfGammas,
    MixtureOfNormals,
    NestedUniforms,
    LatentChain,
    PlateInADatum,
    MatrixLatent,
]
STARTS = [
    (each, start)
    for each in PROBLEMS
    for start in ("prior", "guide")
    if start != "guide" or hasattr(each, "guide")
]


@pytest.mark.parametrize(("kind", "start"), STARTS)
def test_the_evidence_in_closed_form(kind, start):
    problem = kind()
    guide = getattr(problem, "guide", None)
    found = annealed_log_likelihood(
        problem.model, guide, problem.x, start=start, num_steps=40, num_chains=40, leapfrog_steps=5, seed=2
    )
    error = (found.log_likelihood - problem.log_evidence(problem.x)) / found.standard_error
    assert float(error.abs().max()) < 4.5
    assert float(found.standard_error.max()) < 0.2
    assert abs(found.acceptance - 0.65) < 0.1


@pytest.mark.parametrize(("kind", "start"), STARTS)
def test_the_weights_of_few_steps_are_unbiased(kind, start):
    problem = kind()
    guide = getattr(problem, "guide", None)
    found = annealed_log_likelihood(
        problem.model, guide, problem.x, start=start, num_steps=3, num_chains=3000, leapfrog_steps=2, seed=3
    )
    exact = problem.log_evidence(problem.x)
    check_estimates("E[w] / p(x)", (found.log_weight - exact).exp(), torch.ones(len(exact), dtype=double))


@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=pytest.mark.slow if n % 2 else ()) for n, each in enumerate(PROBLEMS)]
)
def test_bounds_from_both_sides_of_every_kind_of_latent(kind):
    problem = kind()
    found = bidirectional(
        problem.model, None, problem.x, num_data=100, num_steps=25, num_chains=8, leapfrog_steps=4, seed=4
    )
    exact = problem.log_evidence(found.x)
    ratio = (exact - found.reverse_log_weight).exp()
    check_estimates("E[p(x) / w]", ratio.mean(0), number(1.0))
    check_estimates("E[w] / p(x)", (found.forward.log_weight - exact).exp().mean(0), number(1.0))


def test_a_masked_datum_has_probability_one():
    problem = GammaPoisson()
    seen = problem.x != 1

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(problem.a, problem.b))
            with pyro.poutine.mask(mask=x != 1):
                pyro.sample("x", dist.Poisson(z), obs=x)

    found = annealed_log_likelihood(model, None, problem.x, num_steps=30, seed=1)
    assert torch.equal(found.log_weight[:, 1], torch.zeros(16, dtype=double))
    exact = problem.log_evidence(problem.x)
    error = (found.log_likelihood - exact)[seen] / found.standard_error[seen]
    assert float(error.abs().max()) < 4.5


def test_the_rows_of_a_subsampled_plate_stay_the_same():
    shift = torch.linspace(-4, 4, 50, dtype=double)

    def model(x):
        with pyro.plate("data", 50, subsample_size=len(x)) as rows:
            z = pyro.sample("z", dist.Normal(number(0.0), 1.0))
            pyro.sample("x", dist.Normal(z + shift[rows], 1.0), obs=x)

    x = torch.zeros(5, dtype=double)
    found = annealed_log_likelihood(model, None, x, num_steps=100, num_chains=200, leapfrog_steps=4, seed=1)
    # Of a datum at row r, log p(x) = log N(0; shift_r, 2): each estimate must be one of these.
    possible = dist.Normal(shift, math.sqrt(2)).log_prob(number(0.0))
    distance = (found.log_likelihood[:, None] - possible).abs().amin(-1)
    assert bool((distance < 5 * found.standard_error).all())
    assert float(found.standard_error.max()) < 0.15
    report = bidirectional(model, None, x, num_steps=100, num_chains=50, leapfrog_steps=4, seed=1)
    assert abs(report.gap.mean) < 0.2


def test_a_likelihood_without_the_latent_and_a_latent_without_a_likelihood():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(number(2.0), number(1.0)))
            pyro.sample("x", dist.Normal(number(0.0), 1.0), obs=x)
            pyro.deterministic("twice", 2 * x)

    x = torch.tensor([0.0, 1.0], dtype=double)
    found = annealed_log_likelihood(model, None, x, num_steps=4, seed=1)
    exact = dist.Normal(number(0.0), 1.0).log_prob(x)
    torch.testing.assert_close(found.log_weight, exact.expand(16, -1))


def test_a_likelihood_that_is_zero_for_some_latents():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(number(0.0), 1.0))
            pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=x)

    x = torch.zeros(2, dtype=double)
    found = annealed_log_likelihood(model, None, x, num_steps=3, num_chains=2000, seed=1)
    exact = (0.5 * torch.erf(torch.tensor(1 / math.sqrt(2), dtype=double))).expand(2)
    check_estimates("E[w]", found.log_weight.exp(), exact)
