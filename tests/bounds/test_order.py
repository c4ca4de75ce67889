"""The order of the bounds, exactly and by Monte Carlo, and the quantities that they estimate."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, Enumerated, LinearGaussian, check_estimates

import pyro_dvae as dv


def data(count, size=3, seed=5):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_exact_order_and_monte_carlo_in_the_linear_gaussian_case():
    """log p ≥ L_cvae ≥ L_2J ≥ L_J ≥ L_0 = L_dvae, and the upper sandwich above L_cvae."""
    problem, x = LinearGaussian(sigma=1.0), data(1).expand(20000, -1)
    with torch.no_grad():
        l_dvae, l_cvae, evidence = (f(x)[0] for f in (problem.l_dvae, problem.l_cvae, problem.log_evidence))
    assert evidence > l_cvae + 0.1 > l_dvae + 0.2
    found = {}
    for j in (0, 1, 4, 64):
        bound = dv.TraceSemiImplicit_ELBO(num_mixture=j, max_plate_nesting=1)
        found[j] = bound.per_datum(problem.model, problem.guide, x)
    upper = dv.TraceSemiImplicit_ELBO(num_mixture=64, max_plate_nesting=1)
    above = upper.upper_per_datum(problem.model, problem.guide, x)
    check_estimates("L_0", found[0], l_dvae)
    means = [float(found[j].mean()) for j in (0, 1, 4, 64)]
    assert means == sorted(means)
    error = 5 * float(found[64].std()) / math.sqrt(len(x))
    assert means[-1] <= float(l_cvae) + error
    assert means[-1] > float(l_cvae) - 0.05
    assert float(above.mean()) >= float(l_cvae) - error


def test_exact_order_by_enumeration():
    problem = BinaryProblem(dv.BitFlip(0.3), data_size=2)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    exact = Enumerated(problem, x)
    with torch.no_grad():
        ordered = [exact.semi_implicit(j) for j in (0, 1, 2)] + [
            exact.l_cvae(),
            exact.upper(2),
            exact.upper(1),
        ]
        for low, high in itertools.pairwise(ordered):
            assert bool((low < high).all())
        average = [exact.iwae("average", 1, k) for k in (1, 2, 3)]
        for low, high in itertools.pairwise(average):
            assert bool((low < high).all())
        torch.testing.assert_close(average[0], ordered[0])
        columns, pool = exact.iwae("average", 2, 1), exact.iwae("pooled", 2, 1)
        assert bool((columns < pool).all())
        points, weights = problem_quadrature()
        log_p = problem.log_joint(points, x) - dist.Normal(0.0, 1.0).log_prob(points)[:, None]
        log_evidence = torch.logsumexp(log_p + weights.log()[:, None], 0)
        for value in (*ordered[:4], *average, columns, pool, exact.iwae("mixture", 2, 1)):
            assert bool((value < log_evidence).all())


def problem_quadrature(nodes=60):
    import numpy as np

    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.as_tensor(points), torch.as_tensor(weights / weights.sum())


@pytest.mark.parametrize("combine", ["pooled", "mixture"])
def test_weights_average_to_the_evidence(combine):
    problem, x = LinearGaussian(), data(1).expand(4000, -1)
    bound = dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=3, num_particles=10, combine=combine, max_plate_nesting=1
    )
    weights = bound.per_datum(problem.model, problem.guide, x).exp()
    check_estimates("evidence", weights, problem.log_evidence(x[:1])[0].exp().detach())


def test_the_mixture_has_the_least_variance():
    problem, x = LinearGaussian(sigma=1.5), data(1).expand(3000, -1)
    spread = {}
    for combine in ("pooled", "mixture"):
        bound = dv.TraceDenoisingIWAE_ELBO(
            num_corruptions=8, num_particles=2, combine=combine, max_plate_nesting=1
        )
        spread[combine] = float(bound.per_datum(problem.model, problem.guide, x).exp().std())
    assert spread["mixture"] < 0.9 * spread["pooled"]


def test_without_a_corruption_the_iwae_bound_equals_that_of_the_plain_guide():
    """Against importance weights written out by hand, under one seed."""
    problem, x = LinearGaussian(), data(6)
    pyro.set_rng_seed(3)
    ours = dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=5, max_plate_nesting=1).per_datum(
        problem.model, problem.plain_guide, x
    )
    pyro.set_rng_seed(3)
    with torch.no_grad():
        q = dist.Normal(x @ problem.A.T + problem.c, (problem.log_v / 2).exp()).to_event(1)
        z = q.expand([5, 6]).rsample()
        p = dist.Normal(z @ problem.W.T + problem.b, problem.log_s.exp()).log_prob(x).sum(-1)
        weights = p + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z)
    torch.testing.assert_close(ours, torch.logsumexp(weights, 0) - math.log(5))


def test_a_chain_of_stochastic_layers():
    """Theorem 1: x̃, a second noisy layer, then z; L_J rises from L_0 to the linear-Gaussian L_cvae."""
    problem, x = LinearGaussian(sigma=0.7), data(1).expand(20000, -1)
    inner = torch.tensor(0.5, dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", problem.corruption, x)
            hidden = dv.auxiliary("hidden", dist.Normal(x_tilde, inner).to_event(1))
            problem.recognition(hidden)

    with torch.no_grad():
        # Two Gaussian layers are one with the sum of their variances.
        total = (problem.corruption.scale() ** 2 + inner**2).sqrt()
        exact = LinearGaussian(sigma=float(total))
        bounds = exact.l_dvae(x)[0], exact.l_cvae(x)[0]
    found = {}
    for j in (0, 32):
        bound = dv.TraceSemiImplicit_ELBO(num_mixture=j, max_plate_nesting=1)
        found[j] = bound.per_datum(problem.model, guide, x)
    check_estimates("L_0", found[0], bounds[0])
    error = 5 * float(found[32].std()) / math.sqrt(len(x))
    assert float(bounds[0]) + error < float(found[32].mean()) < float(bounds[1]) + error
    assert float(found[32].mean()) > float(bounds[1]) - 0.1 - error
