"""The semi-implicit guide: exact where everything is linear and Gaussian."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian, check_estimates, gradients
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_dvae as dv

F64 = torch.float64


class LinearEncoder(nn.Module):
    """loc = A x̃ + B ε + c, with a scale that is the same everywhere."""

    def __init__(self, problem, noise_weight):
        super().__init__()
        self.A, self.c = problem.A, problem.c
        self.B = nn.Parameter(noise_weight)
        self.log_v = problem.log_v

    def forward(self, inputs):
        x_tilde, noise = inputs.split([self.A.shape[1], self.B.shape[1]], -1)
        loc = x_tilde @ self.A.T + noise @ self.B.T + self.c
        return loc, (self.log_v / 2).exp().expand(loc.shape)


class Problem(LinearGaussian):
    """A linear-Gaussian model with an implicit guide: z | x ~ N(Ax + c, σ²AAᵀ + BBᵀ + diag v)."""

    def __init__(self, data_size=3, latent_size=2, noise_size=2, sigma=0.4):
        super().__init__(data_size, latent_size, sigma, learn_sigma=sigma > 0)
        generator = torch.Generator().manual_seed(9)
        weight = 0.5 * torch.randn(latent_size, noise_size, generator=generator, dtype=F64)
        self.guide_module = dv.ImplicitGuide(LinearEncoder(self, weight), noise_size, self.corruption)

    def guide(self, x):
        return self.guide_module(x)

    def _covariances(self):
        v, S = super()._covariances()
        B = self.guide_module.encoder.B
        return v, S + B @ B.T


def data(count=4, size=3, seed=5):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def estimates(bound, problem, x, repeats=1500):
    """The bound of each datum many times over, [repeats, N]."""
    rows = x.repeat(repeats, 1)
    return bound.per_datum(problem.model, problem.guide, rows).reshape(repeats, len(x))


@pytest.mark.parametrize(("m", "k"), [(1, 1), (2, 3)])
def test_without_a_mixture_it_is_the_denoising_bound(m, k):
    problem, x = Problem(), data()
    exact = problem.l_dvae(x).detach()
    check_estimates(
        "L_0",
        estimates(
            dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, max_plate_nesting=1), problem, x
        ),
        exact,
    )
    none = dv.TraceSemiImplicit_ELBO(num_corruptions=m, num_particles=k, num_mixture=0, max_plate_nesting=1)
    check_estimates("J = 0", estimates(none, problem, x), exact)


def test_the_bounds_are_in_their_order():
    """L_dvae = L_0 < L_1 < L_10 < L_100 < L_cvae < log p(x), and the upper sandwich above L_cvae."""
    problem, x = Problem(), data()
    exact = [bound(x).detach().mean() for bound in (problem.l_dvae, problem.l_cvae, problem.log_evidence)]
    assert exact[0] + 0.3 < exact[1] < exact[2]
    means, errors = [], []
    for count in (0, 1, 10, 100):
        bound = dv.TraceSemiImplicit_ELBO(num_mixture=count, max_plate_nesting=1)
        found = estimates(bound, problem, x, 800).mean(1)
        means.append(float(found.mean()))
        errors.append(float(found.std()) / math.sqrt(800))
    assert means[0] == pytest.approx(float(exact[0]), abs=5 * errors[0])
    for lower, higher, error in zip(means, means[1:], errors[1:], strict=False):
        assert higher > lower - 4 * error
    assert means[3] < float(exact[1]) + 4 * errors[3]
    assert float(exact[1]) - means[3] < 0.15 * float(exact[1] - exact[0])
    upper = dv.TraceSemiImplicit_ELBO(num_mixture=30, max_plate_nesting=1)
    above = upper.upper_per_datum(problem.model, problem.guide, x.repeat(800, 1)).reshape(800, -1).mean(1)
    assert float(above.mean()) > float(exact[1]) - 4 * float(above.std()) / math.sqrt(800)


def quadrature(problem, x, nodes=40):
    """Exact L_1 of one-dimensional data, latents and noise, without corruption: over ε_0, ε_1 and z."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.as_tensor(points), torch.as_tensor(weights / weights.sum())
    encoder = problem.guide_module.encoder
    center, scale = x @ encoder.A.T + encoder.c, (encoder.log_v / 2).exp()
    own, other = encoder.B * points[:, None], encoder.B * points[None, :]
    loc = (center[..., None] + torch.stack(torch.broadcast_tensors(own, other)).unsqueeze(1))[..., None]
    z = loc[0] + scale * points
    log_q = torch.stack([dist.Normal(each, scale).log_prob(z) for each in loc])
    mixture = torch.logsumexp(log_q, 0) - math.log(2)
    prior = dist.Normal(torch.zeros((), dtype=F64), 1.0).log_prob(z)
    mean = problem.W * z + problem.b
    likelihood = dist.Normal(mean, problem.log_s.exp()).log_prob(x.reshape(-1, 1, 1, 1))
    integrand = prior + likelihood - mixture
    return torch.einsum("nabz,a,b,z->n", integrand, weights, weights, weights)


def test_one_further_draw_and_its_gradient_equal_the_integral():
    problem, x = Problem(1, 1, 1), data(3, 1)
    problem.guide_module.corruption = dv.NoCorruption()
    exact = quadrature(problem, x)
    exact.sum().backward()
    expected = gradients(problem)
    rows, repeats = x.repeat(500, 1), 40
    bound = dv.TraceSemiImplicit_ELBO(num_mixture=1, max_plate_nesting=1)
    losses, grads = [], []
    for _ in range(repeats):
        losses.append(bound.loss_and_grads(problem.model, problem.guide, rows))
        grads.append(gradients(problem))
    check_estimates("L_1", -torch.tensor(losses, dtype=F64) / 500, exact.sum().detach())
    for name, value in expected.items():
        check_estimates(name, -torch.stack([each[name] for each in grads]) / 500, value)


def test_the_noise_stays_on_clean_input():
    problem, x = Problem(), data()
    with dv.clean_input():
        trace = poutine.trace(problem.guide).get_trace(x)
        other = poutine.trace(problem.guide).get_trace(x)
    assert torch.equal(trace.nodes["x_tilde"]["value"], x)
    noise = trace.nodes["noise"]["value"]
    assert noise.shape == (4, 2)
    assert not torch.equal(noise, other.nodes["noise"]["value"])
    clean = Problem(sigma=0.0)
    found = dv.evaluate_bound(
        problem.model,
        problem.guide,
        x.repeat(1500, 1),
        loss=dv.TraceSemiImplicit_ELBO(num_mixture=0, max_plate_nesting=1),
        seed=1,
    )
    check_estimates("clean", found.per_datum.reshape(1500, -1), clean.l_dvae(x).detach())


def test_the_marginal_guide_is_the_known_gaussian():
    problem, x = Problem(), data(1)
    z = poutine.trace(problem.guide).get_trace(x.expand(20_000, -1)).nodes["z"]["value"].detach()
    mean = (x @ problem.A.T + problem.c).squeeze(0).detach()
    covariance = problem._covariances()[1].detach()
    check_estimates("mean", z, mean)
    deviation = z - mean
    check_estimates("covariance", deviation.unsqueeze(-1) * deviation.unsqueeze(-2), covariance)


def test_stock_elbos_do_not_count_the_noise():
    problem, x = Problem(), data()
    pyro.set_rng_seed(1)
    stock = Trace_ELBO().loss(problem.model, problem.guide, x)
    pyro.set_rng_seed(1)
    assert dv.TraceDenoising_ELBO().loss(problem.model, problem.guide, x) == pytest.approx(stock)


def test_a_mixture_of_the_noise_estimates_the_evidence():
    problem, x = Problem(), data()
    found = dv.log_likelihood(
        problem.model, problem.guide, x, num_samples=4000, proposal="mixture", seed=2, progress=False
    )
    exact = problem.log_evidence(x).detach()
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())


def test_the_spread_over_the_noise_grows_only_under_the_semi_implicit_bound():
    """The plain bound shrinks B to nothing; with a mixture the noise is used."""
    sizes = []
    for count in (0, 20):
        problem, x = Problem(1, 1, 1), data(100, 1)
        problem.guide_module.corruption = dv.NoCorruption()
        with torch.no_grad():
            problem.guide_module.encoder.log_v.fill_(-4.0)
            problem.guide_module.encoder.log_v.requires_grad_(False)
        optimizer = torch.optim.Adam([problem.guide_module.encoder.B, problem.A, problem.c], lr=0.03)
        bound = dv.TraceSemiImplicit_ELBO(num_mixture=count, max_plate_nesting=1)
        for _ in range(100):
            optimizer.zero_grad()
            bound.loss_and_grads(problem.model, problem.guide, x)
            optimizer.step()
        sizes.append(float(problem.guide_module.encoder.B.detach().abs()))
        pyro.clear_param_store()
    assert sizes[0] < 0.05
    assert sizes[1] > 0.2


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_a_bad_noise_size_is_refused(size):
    with pytest.raises(dv.InputError, match=r"^noise_size: expected a whole number"):
        dv.ImplicitGuide.of_sizes(3, 2, noise_size=size)
