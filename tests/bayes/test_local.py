"""Local reparameterisation against the closed form; the priors of weights against their densities."""

import math

import pyro
import pytest
import torch
from exact import check_estimates, gradients
from test_full_bayes_bound import LinearDecoder, LinearEncoder, N, data, divergence, expected_l_dvae, problem
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.models.bayes import (
    FullBayes,
    LocallyReparameterised,
    NormalWeight,
    ScaleMixture,
    StudentWeight,
)
from pyro_dvae.networks import GaussianDecoder

MINI = slice(0, 2)
LIKE = torch.zeros((), dtype=torch.float64)


def losses_and_gradients(model, guide, bayes, x, count=100):
    bound = dv.TraceMeanFieldDenoising_ELBO(num_particles=2, max_plate_nesting=1)
    losses, grads = [], []
    for _ in range(count):
        losses.append(bound.loss_and_grads(model, guide, x))
        grads.append(gradients(bayes))
    return -torch.tensor(losses, dtype=torch.float64), grads


def test_bound_and_every_gradient_of_a_mini_batch():
    bayes, x = problem(bound_of="batch"), data()[MINI]
    exact = expected_l_dvae(bayes, x).sum() - len(x) / N * divergence(bayes)
    exact.backward()
    wanted = gradients(bayes)
    losses, grads = losses_and_gradients(LocallyReparameterised(bayes), bayes.guide.guide, bayes, x)
    check_estimates("bound", losses, exact.detach())
    for name, value in wanted.items():
        assert bool((value != 0).any()), name
        check_estimates(name, -torch.stack([grad[name] for grad in grads]), value)


def test_rows_with_noise_of_their_own_vary_less():
    bayes, x = problem(noise=0.0, bound_of="batch"), data()
    shared, _ = losses_and_gradients(bayes.model, bayes.guide, bayes, x)
    pyro.clear_param_store()
    local, _ = losses_and_gradients(LocallyReparameterised(bayes), bayes.guide.guide, bayes, x)
    assert float(local.var()) < 0.7 * float(shared.var())


@pytest.mark.parametrize("prior", [ScaleMixture(0.3, 1.0, 0.1), StudentWeight()], ids=["mixture", "student"])
def test_a_divergence_without_a_closed_form_is_estimated_without_bias(prior):
    decoder = LinearDecoder()
    guide = dv.GaussianGuide(LinearEncoder())
    bayes = FullBayes(decoder, guide, N, weight_prior=prior, initial_scale=0.3)
    model = LocallyReparameterised(bayes)
    found = torch.stack([model.divergence(data()) for _ in range(400)]).detach()
    grid = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    exact = 0.0
    for q in bayes.guide.weights.distributions().values():
        log_q = q.base_dist.log_prob(grid.reshape(-1, *[1] * q.base_dist.loc.dim()))
        log_p = prior.one(grid[0]).log_prob(grid).reshape(-1, *[1] * q.base_dist.loc.dim())
        exact = exact + torch.trapezoid(log_q.exp() * (log_q - log_p), grid, dim=0).sum()
    check_estimates("divergence", found, exact.detach())


@pytest.mark.parametrize(
    ("prior", "density"),
    [
        (NormalWeight(0.5), lambda w: math.exp(-2 * w**2) / math.sqrt(2 * math.pi * 0.25)),
        (
            ScaleMixture(0.25, 2.0, 0.5),
            lambda w: (0.125 * math.exp(-(w**2) / 8) + 1.5 * math.exp(-2 * w**2)) / math.sqrt(2 * math.pi),
        ),
        # With 2 degrees of freedom: 1 / (2 √2 scale (1 + t²/2)^(3/2)), t = w / scale.
        (StudentWeight(2.0, 0.5), lambda w: 1 / (math.sqrt(2) * (1 + 2 * w**2) ** 1.5)),
    ],
    ids=["normal", "mixture", "student"],
)
def test_the_density_of_a_weight(prior, density):
    for w in (0.0, 0.3, -1.2):
        found = float(prior.one(LIKE).log_prob(torch.tensor(w, dtype=torch.float64)))
        assert found == pytest.approx(math.log(density(w)), rel=1e-12)


def test_the_prior_with_a_prior_of_its_variance_is_the_integral():
    prior = StudentWeight(3.0, 0.4)
    variance = torch.distributions.InverseGamma(torch.tensor(1.5).double(), torch.tensor(1.5 * 0.16).double())
    grid = torch.linspace(math.log(1e-4), math.log(1e5), 200_001, dtype=torch.float64)
    w = torch.tensor(0.7, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, (grid / 2).exp()).log_prob(w)
    values = (normal + variance.log_prob(grid.exp()) + grid).exp()
    assert float(prior.one(LIKE).log_prob(w).exp()) == pytest.approx(
        float(torch.trapezoid(values, grid)), rel=1e-6
    )


def test_training_moves_the_weights_that_are_measured():
    bayes, x = problem(noise=0.0, bound_of="batch"), data()
    before = {name: value.detach().clone() for name, value in bayes.guide.weights.scales().items()}
    dv.fit(
        LocallyReparameterised(bayes),
        bayes.guide.guide,
        x,
        loss=dv.TraceMeanFieldDenoising_ELBO(max_plate_nesting=1),
        epochs=3,
        seed=0,
        progress=False,
    )
    assert all(bool((bayes.guide.weights.scales()[name] != value).all()) for name, value in before.items())
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    assert math.isfinite(dv.evaluate_bound(bayes.predictive(), bayes.guide.guide, x, loss=bound).mean)


def test_what_is_refused():
    with pytest.raises(InputError, match="narrow: expected a scale below wide"):
        ScaleMixture(0.5, 1.0, 1.0)
    with pytest.raises(InputError, match="share"):
        ScaleMixture(1.5)
    with pytest.raises(InputError, match="degrees"):
        StudentWeight(0.0)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.latent_size = GaussianDecoder(3, 2, (4,)), 2
            self.extra = nn.Parameter(torch.zeros(()))

        def forward(self, z):
            return self.inner(z * self.extra.exp())

    with pytest.raises(InputError, match=r"weights of torch\.nn\.Linear layers, got 'extra'"):
        LocallyReparameterised(FullBayes(Scaled(), dv.GaussianGuide.of_sizes(3, 2, (4,)), 10))
