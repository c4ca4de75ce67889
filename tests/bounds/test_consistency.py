"""The regulariser of CR-VAE adds λ KL(q(z|x̃) ‖ q(z|x)) to the gradient, and nothing to the value."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian, check_estimates, gradients
from torch import nn

import pyro_dvae as dv

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double()
WEIGHT = 0.7


def divergence(problem):
    """Return E_x̃ KL(q(z|x̃) ‖ q(z|x)), of each row: σ²/2 Σ_i (A Aᵀ)_ii / v_i."""
    rows = (problem.A @ problem.A.T).diagonal()
    return problem.corruption.scale() ** 2 / 2 * (rows / problem.log_v.exp()).sum()


@pytest.mark.parametrize("kind", [dv.TraceDenoising_ELBO, dv.TraceMeanFieldDenoising_ELBO])
@pytest.mark.parametrize(("m", "k", "vectorised"), [(1, 1, True), (3, 2, True), (2, 2, False)])
def test_the_gradient_is_the_exact_one(kind, m, k, vectorised):
    problem = LinearGaussian()
    options = {"num_corruptions": m, "num_particles": k, "vectorize_particles": vectorised}
    bound = kind(consistency=WEIGHT, **options)
    (len(X) * WEIGHT * divergence(problem) - problem.l_dvae(X).sum()).backward()
    exact = gradients(problem)
    pyro.set_rng_seed(0)
    found = {name: [] for name in exact}
    for _ in range(100 if vectorised else 40):
        bound.loss_and_grads(problem.model, problem.guide, X)
        for name, gradient in gradients(problem).items():
            found[name].append(gradient)
    for name, each in found.items():
        check_estimates(name, torch.stack(each), exact[name])


def test_the_value_equals_that_of_the_bound():
    problem, values = LinearGaussian(), []
    for weight in (0.0, WEIGHT):
        pyro.set_rng_seed(0)
        bound = dv.TraceDenoising_ELBO(consistency=weight)
        values.append(bound.loss_and_grads(problem.model, problem.guide, X))
    assert values[0] == values[1]


def test_clean_input_has_no_divergence():
    problem, found = LinearGaussian(learn_sigma=False), []
    for weight in (0.0, WEIGHT):
        pyro.set_rng_seed(0)
        bound = dv.TraceDenoising_ELBO(consistency=weight)
        bound.loss_and_grads(problem.model, dv.clean_input(problem.guide), X)
        found.append(gradients(problem))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_latents_without_a_closed_form_are_sampled():
    """q(z|x̃) is a log-normal times two: the divergence is that of the normal, by draws."""
    scale = 0.5
    slope = nn.Parameter(torch.tensor(0.8).double())
    noise = dv.GaussianNoise(torch.tensor(0.3).double())
    transforms = [dist.transforms.AffineTransform(0.0, scale), dist.transforms.ExpTransform()]
    transforms.append(dist.transforms.AffineTransform(0.0, 2.0))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("slope", lambda: slope) * dv.corrupt("x_tilde", noise, x, event_dim=0)
            made = dist.Normal(loc, 1.0)
            pyro.sample("z", dist.TransformedDistribution(made, list(transforms)))

    x, plain, regularised = X[:, 0], [], []
    for seed in range(300):
        for weight, kept in ((0.0, plain), (1.0, regularised)):
            pyro.set_rng_seed(seed)
            pyro.clear_param_store()
            dv.TraceDenoising_ELBO(consistency=weight).loss_and_grads(model, guide, x)
            kept.append(pyro.param("slope").grad.clone())
    # KL = slope² (x̃ − x)² / 2, so its derivative is slope σ², for each row.
    exact = len(x) * slope.detach() * 0.3**2
    check_estimates("slope", torch.stack(regularised) - torch.stack(plain), exact)


@pytest.mark.parametrize("options", [{"gradient": "stl"}, {"baseline": nn.Linear(3, 1)}])
def test_what_it_does_not_cover_is_refused(options):
    with pytest.raises(dv.InputError, match="consistency: needs"):
        dv.TraceDenoising_ELBO(consistency=1.0, **options)
