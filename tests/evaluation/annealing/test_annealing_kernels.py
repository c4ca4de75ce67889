import math

import pyro
import pytest
import torch
from exact import LinearGaussian, check_estimates

from pyro_dvae.evaluation.annealing.chunks import rows_at_once
from pyro_dvae.evaluation.annealing.kernels import adapted_kernels, leapfrog, pilot_transitions, transition
from pyro_dvae.evaluation.annealing.settings import AnnealingSettings
from pyro_dvae.evaluation.annealing.starts import begin, programs_of
from pyro_dvae.evaluation.annealing.structure import inspect
from pyro_dvae.rows import Arguments, Data


def density_of(problem, x, num_chains, start="prior"):
    guide = problem.guide if start == "guide" else None
    structure = inspect(problem.model, guide, Data.of_tensors(x))
    return begin(programs_of(problem.model, guide, Arguments((x,)), structure), num_chains)


def annealed_gaussian(problem, x, beta, start="prior"):
    """Return mean [N, d] and covariance of f_β, which is Gaussian."""
    with torch.no_grad():
        W, noise = problem.W, (2 * problem.log_s).exp()
        eye = torch.eye(W.shape[1], dtype=W.dtype)
        precision = eye + beta * W.T @ W / noise
        linear = beta * (x - problem.b) @ W / noise
        if start == "guide":
            v = problem.log_v.exp()
            precision = precision + (1 - beta) * (torch.diag(1 / v) - eye)
            linear = linear + (1 - beta) * (x @ problem.A.T + problem.c) / v
        covariance = precision.inverse()
        return linear @ covariance, covariance


def data(count):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_density_and_its_gradient_at_any_temperature(start):
    problem, x, beta = LinearGaussian(), data(4), 0.3
    _, point = density_of(problem, x, 5, start)
    mean, covariance = annealed_gaussian(problem, x, beta, start)
    z = point.position.clone().requires_grad_()
    prior = torch.distributions.Normal(torch.zeros((), dtype=z.dtype), 1.0).log_prob(z).sum(-1)
    loc = z @ problem.W.T + problem.b
    joint = prior + torch.distributions.Normal(loc, problem.log_s.exp()).log_prob(x).sum(-1)
    if start == "guide":
        loc = x @ problem.A.T + problem.c
        prior = torch.distributions.Normal(loc, (problem.log_v / 2).exp()).log_prob(z).sum(-1)
    value = (1 - beta) * prior + beta * joint
    torch.testing.assert_close(point.log_density(beta), value.detach())
    (gradient,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(point.gradient(beta), gradient)
    torch.testing.assert_close(gradient, (mean - z.detach()) @ covariance.inverse())


def test_leapfrog_is_reversible_and_keeps_energy_and_volume():
    problem, x, beta = LinearGaussian(), data(1), 0.7
    density, start = density_of(problem, x, 9)
    step = torch.full((1, 1), 0.05, dtype=torch.float64)
    momentum = torch.randn_like(start.position)
    end, last = leapfrog(density, start, momentum, step, beta, 12)
    back, returned = leapfrog(density, end, -last, step, beta, 12)
    torch.testing.assert_close(back.position, start.position, rtol=0, atol=1e-10)
    torch.testing.assert_close(returned, -momentum, rtol=0, atol=1e-10)

    def energy_error(size, count):
        point, p = leapfrog(density, start, momentum, step * size, beta, count)
        after = 0.5 * p.square().sum(-1) - point.log_density(beta)
        return (after - 0.5 * momentum.square().sum(-1) + start.log_density(beta)).abs().mean()

    ratio = float(energy_error(1.0, 12) / energy_error(0.5, 24))
    assert 3.5 < ratio < 4.5  # second order, over the same time

    # The map of the phase space is affine here, so differences give its Jacobian exactly.
    centre = torch.cat([start.position[:1], momentum[:1]], -1)
    shifts = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    where = centre[0] + shifts
    ends, momenta = leapfrog(density, density(where[:, None, :2]), where[:, None, 2:], step, beta, 12)
    images = torch.cat([ends.position, momenta], -1)[:, 0]
    jacobian = (images[:4] - images[4:]) / 2
    assert abs(float(torch.linalg.det(jacobian))) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize(("step", "least", "most"), [(0.02, 0.999, 1.0), (0.4, 0.2, 0.97)])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_transitions_leave_the_annealed_density_invariant(step, least, most, start):
    problem, x, beta, chains = LinearGaussian(), data(2), 0.5, 4000
    density, _ = density_of(problem, x, 1, start)
    mean, covariance = annealed_gaussian(problem, x, beta, start)
    root = torch.linalg.cholesky(covariance)
    point = density(mean + torch.randn(chains, 2, 2, dtype=torch.float64) @ root.T)
    sizes = torch.full((2,), step, dtype=torch.float64)
    for _ in range(3):
        point, acceptance = transition(density, point, sizes, beta, 6)
    assert least <= float(acceptance.mean()) <= most
    standard = (point.position - mean) @ torch.linalg.inv(root).T
    check_estimates("mean", standard, torch.zeros(2, 2, dtype=torch.float64))
    products = standard.unsqueeze(-1) * standard.unsqueeze(-2)
    check_estimates("covariance", products, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


def test_transitions_lead_to_the_annealed_density():
    problem, x, beta = LinearGaussian(), data(2), 0.5
    mean, covariance = annealed_gaussian(problem, x, beta)
    density, point = density_of(problem, x, 3000)
    for _ in range(60):
        point, _ = transition(density, point, torch.full((2,), 0.3, dtype=torch.float64), beta, 5)
    check_estimates("mean", point.position, mean)
    centred = point.position - mean
    check_estimates("variance", centred.square(), covariance.diagonal().expand(2, 2))


def test_a_trajectory_that_diverges_is_rejected():
    problem, x = LinearGaussian(), data(2)
    density, point = density_of(problem, x, 4)
    sizes = torch.full((2,), 1e200, dtype=torch.float64)
    with pyro.validation_enabled(False):
        after, acceptance = transition(density, point, sizes, 1.0, 3)
    assert torch.equal(after.position, point.position)
    assert torch.equal(acceptance, torch.zeros_like(acceptance))
    assert bool(torch.isfinite(after.gradient(1.0)).all())


def test_step_sizes_follow_the_scale_of_each_datum():
    def problem_of(scale):
        pyro.clear_param_store()
        problem = LinearGaussian()
        with torch.no_grad():
            problem.log_s.fill_(math.log(scale))
        return problem

    sizes, ticks = [], []
    settings = AnnealingSettings(60, 16, "prior", 10, "sigmoid", 0.65, 0)
    for scale in (1.0, 0.05):
        problem, x = problem_of(scale), data(3)
        structure = inspect(problem.model, None, Data.of_tensors(x))
        programs = programs_of(problem.model, None, Arguments((x,)), structure)
        kernels = adapted_kernels(programs, settings, lambda: ticks.append(1))
        assert kernels.step_sizes.shape == (59, 3)
        sizes.append(kernels.step_sizes)
    assert len(ticks) == 2 * pilot_transitions(60)
    assert float(sizes[0][-1].mean() / sizes[1][-1].mean()) > 5
    assert float(sizes[1][0].mean() / sizes[1][-1].mean()) > 5
    assert pilot_transitions(1) == 0


def test_chunks_are_as_large_as_the_memory_allows():
    problem, x = LinearGaussian(data_size=3), data(50)
    structure = inspect(problem.model, None, Data.of_tensors(x))

    def rows(memory, chains=16):
        return rows_at_once(problem.model, None, Data.of_tensors(x), structure, chains, memory)

    assert rows(1) == 1
    assert rows_at_once(problem.model, None, Data.of_tensors(x[:1]), structure, 16, 10**9) == 1
    assert rows(2**22) == pytest.approx(2 * rows(2**21), rel=0.05)
    assert rows(2**22, chains=32) == pytest.approx(rows(2**21), rel=0.1)
    bytes_of_a_chain = 2**22 / rows(2**22) / 16
    assert 8 * (2 + 3) < bytes_of_a_chain < 8 * 200
