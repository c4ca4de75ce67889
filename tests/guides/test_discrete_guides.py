"""Guides of bits and categories: bounds and gradients against enumeration and quadrature, in float64."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from exact import Enumerated, check_estimates, gradients
from torch import nn

import pyro_dvae as dv
from pyro_dvae import guides, priors
from pyro_dvae.engine import record
from pyro_dvae.errors import InputError
from pyro_dvae.networks import BernoulliDecoder

D = 3
X = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


class Pair(nn.Module):
    """A model and a guide of this package with few latent values, for :class:`exact.Enumerated`."""

    def __init__(self, kind, corruption, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        if kind == "bits":
            latent_size, guide_class, prior = 3, guides.BernoulliGuide, priors.BernoulliPrior
            self.values = list(itertools.product([0.0, 1.0], repeat=3))
            self.prior, options = prior(3, torch.tensor([0.5, 0.3, 0.8]), learnable=True), {}
        else:
            latent_size, guide_class, options = 6, guides.CategoricalGuide, {"categories": 3}
            unit = torch.eye(3).tolist()
            self.values = [one + two for one, two in itertools.product(unit, unit)]
            self.prior = priors.CategoricalPrior(6, 3, learnable=True)
        self.model = dv.LatentVariableModel(BernoulliDecoder(D, latent_size, (4,)), self.prior)
        self.guide = guide_class.of_sizes(D, latent_size, (4,), corruption=corruption, **options)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7)
        self.corruption = corruption
        self.double()

    def latents(self, x_tilde):
        z = torch.tensor(self.values, dtype=torch.float64)
        return z, self.log_guide(z, x_tilde).exp()

    def log_joint(self, z, x):
        return self.prior(x).log_prob(z)[:, None] + self.model.decoder(z[:, None]).log_prob(x)

    def log_guide(self, z, x_tilde):
        return self.guide.posterior(x_tilde).log_prob(z)


@pytest.fixture(params=["bits", "categories"])
def problem(request):
    return Pair(request.param, dv.SaltAndPepper(0.3))


def baseline():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 1)).double()


BOUNDS = {
    "NVIL": lambda: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=1, baseline=baseline()),
    "leave one out": lambda: dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=3),
    "closed-form KL": lambda: dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=2),
    "VIMCO": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=3),
    "VIMCO, pooled": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=1, combine="pooled"),
    "IWAE by NVIL": lambda: dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=1, num_particles=2, baseline=baseline()
    ),
}


def exact_bound(problem, bound):
    exact = Enumerated(problem, X)
    if isinstance(bound, dv.TraceDenoisingIWAE_ELBO):
        return exact.iwae(bound.combine, bound.num_corruptions, bound.num_particles)
    return exact.semi_implicit(0)


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_and_gradients_equal_those_of_enumeration(problem, name):
    bound = BOUNDS[name]()
    exact = exact_bound(problem, bound)
    exact.sum().backward()
    true = gradients(problem)
    many = X.repeat(100, 1)
    values, found = [], []
    for _ in range(60):
        loss = bound.differentiable_loss(problem.model, problem.guide, many)
        loss.backward()
        values.append(-loss.detach() / 100)
        each = gradients(problem)
        found.append(torch.cat([-each[key].flatten() / 100 for key in true]))
    check_estimates("bound", torch.stack(values), exact.detach().sum())
    check_estimates("gradient", torch.stack(found), torch.cat([value.flatten() for value in true.values()]))


def test_the_closed_form_of_the_divergence(problem):
    x_tilde = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    z, weight = problem.latents(x_tilde)
    exact = (weight * (problem.log_guide(z, x_tilde) - problem.prior(X).log_prob(z))).sum()
    q = problem.guide.posterior(x_tilde[0])
    torch.testing.assert_close(torch.distributions.kl_divergence(q, problem.prior(X)), exact)


def test_training_by_nvil_raises_the_exact_bound(problem):
    network = baseline()
    bound = dv.TraceDenoising_ELBO(baseline=network)
    before = exact_bound(problem, bound).mean()
    many = X.repeat(20, 1)
    dv.fit(
        problem.model,
        problem.guide,
        many,
        loss=bound,
        epochs=30,
        batch_size=40,
        learning_rate=0.02,
        progress=False,
    )
    after = exact_bound(problem, bound).mean()
    assert after > before + 0.2
    moved = baseline()[0].weight
    assert not torch.equal(network[0].weight, moved)


def logits(encoder_size, value=None):
    """An encoder whose output is the same for any datum."""
    network = nn.Linear(D, encoder_size).double()
    nn.init.zeros_(network.weight)
    if value is not None:
        with torch.no_grad():
            network.bias.copy_(torch.as_tensor(value))
    return network


def quadrature(fn, temperature, count=200_001):
    """Points and weights for expectations under a distribution of one relaxed bit."""
    z = torch.linspace(-60 / temperature, 60 / temperature, count, dtype=torch.float64)
    weight = fn.log_prob(z[:, None]).exp() * (z[1] - z[0])
    return z, weight


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2 / 3, 3.0])
@pytest.mark.parametrize("logit", [0.0, -1.3, 4.0])
def test_a_relaxed_bit_is_normalised_and_exceeds_one_half_as_often_as_the_bit(temperature, logit):
    guide = guides.ConcreteGuide(logits(1, [logit]), temperature=temperature)
    fn = guide.posterior(X[0])
    z, weight = quadrature(fn, temperature)
    assert float(weight.sum().detach()) == pytest.approx(1.0, abs=1e-6)
    share = weight[z > 0].sum() + 0.5 * weight[z == 0].sum()
    assert float(share.detach()) == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)
    draws = fn.sample((20_000,)).squeeze(-1)
    check_estimates("share of ones", (draws > 0).double(), torch.tensor(logit).double().sigmoid())
    code = draws.sigmoid()  # the density on (0, 1) is that of torch, by the change of variable
    relaxed = torch.distributions.RelaxedBernoulli(
        guide.temperature().double(), logits=torch.tensor([logit]).double()
    )
    inside = draws.abs() < 12
    expected = (
        relaxed.log_prob(code[inside, None]) + code[inside, None].log() + torch.log1p(-code[inside, None])
    )
    torch.testing.assert_close(fn.log_prob(draws[inside, None]), expected.squeeze(-1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_largest_of_relaxed_categories_is_as_often_as_the_category(temperature):
    encoder = logits(6)
    guide = guides.GumbelSoftmaxGuide(encoder, categories=3, temperature=temperature)
    draws = guide.posterior(X[0]).sample((20_000,)).unflatten(-1, (2, 3))
    torch.testing.assert_close(draws.exp().sum(-1), torch.ones(20_000, 2, dtype=torch.float64))
    largest = nn.functional.one_hot(draws.argmax(-1), 3).double()
    check_estimates("largest", largest, encoder(X[0]).unflatten(-1, (2, 3)).softmax(-1).detach())


class OneBit:
    """x | b ~ Bernoulli(σ(w b + c)), the code b of one latent, with constant q: everything by quadrature."""

    def __init__(self, logit, temperature, straight_through=False):
        self.decoder = BernoulliDecoder(D, 1, (2,)).double()
        for parameter in self.decoder.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
        self.prior = priors.ConcretePrior(
            1, 0.4, temperature=temperature, straight_through=straight_through
        ).double()
        self.guide = guides.ConcreteGuide(logits(1, [logit]), temperature=temperature)
        self.model = dv.LatentVariableModel(self.decoder, self.prior)

    def parts(self, x):
        """Reconstruction and KL of the relaxed bound of one datum."""
        q = self.guide.posterior(x)
        z, weight = quadrature(q, self.guide.temperature())
        likelihood = self.decoder(self.prior.code(z[:, None])).log_prob(x)
        divergence = q.log_prob(z[:, None]) - self.prior(x).log_prob(z[:, None])
        return (weight * likelihood).sum(), (weight * divergence).sum()


def bernoulli_parts(pair, x):
    """Reconstruction and KL of the same model and guide with bits."""
    q = dist.Bernoulli(logits=pair.guide.encoder(x))
    p = dist.Bernoulli(logits=pair.prior.logits)
    bits = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    likelihood = pair.decoder(bits).log_prob(x)
    mass = q.log_prob(bits).exp().squeeze(-1)
    return (mass * likelihood).sum(), torch.distributions.kl_divergence(q, p).sum()


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_relaxed_bound_equals_quadrature(straight_through):
    pair = OneBit(0.8, 0.5, straight_through)
    reconstruction, divergence = pair.parts(X[0])
    values = dv.TraceDenoising_ELBO().per_datum(pair.model, pair.guide, X[:1].repeat(20_000, 1))
    check_estimates("bound", values, (reconstruction - divergence).detach(), slack=1e-4)


def test_the_pathwise_gradient_equals_quadrature():
    pair = OneBit(0.8, 0.5)
    reconstruction, divergence = pair.parts(X[0])
    names = [pair.guide.encoder.bias, *pair.decoder.parameters()]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(reconstruction - divergence, names)])
    bound, many, found = dv.TraceDenoising_ELBO(), X[:1].repeat(200, 1), []
    for _ in range(80):
        loss = bound.differentiable_loss(pair.model, pair.guide, many)
        found.append(torch.cat([-g.flatten() / 200 for g in torch.autograd.grad(loss, names)]))
    check_estimates("gradient", torch.stack(found), exact, slack=1e-4)


def test_a_cold_relaxed_bound_tends_to_the_discrete_reconstruction_and_keeps_its_divergence():
    discrete_reconstruction, discrete_divergence = bernoulli_parts(OneBit(0.8, 1.0), X[0])
    divergence_of_one = OneBit(0.8, 1.0).parts(X[0])[1]
    distances = []
    for temperature in (1.0, 0.1, 0.01, 0.001):
        reconstruction, divergence = OneBit(0.8, temperature).parts(X[0])
        distances.append(float((reconstruction - discrete_reconstruction).abs().detach()))
        torch.testing.assert_close(divergence, divergence_of_one, rtol=0, atol=1e-5)
        assert divergence > discrete_divergence
    assert all(later < 0.2 * earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 1e-3


def test_straight_through_keeps_the_bound_below_that_of_bits():
    for temperature in (1.0, 0.3):
        pair = OneBit(0.8, temperature, straight_through=True)
        reconstruction, divergence = pair.parts(X[0])
        discrete = bernoulli_parts(pair, X[0])
        torch.testing.assert_close(reconstruction, discrete[0], rtol=0, atol=1e-3)
        assert reconstruction - divergence < discrete[0] - discrete[1]


@pytest.mark.parametrize("kind", [guides.ConcreteGuide, guides.GumbelSoftmaxGuide])
def test_a_scheduled_temperature_reaches_a_recorded_step(kind):
    schedule = dv.LinearSchedule(1.0, 0.5, 4)
    corruption = dv.SaltAndPepper(dv.LinearSchedule(0.2, 0.1, 4))
    guide = kind.of_sizes(D, 2, (4,), corruption=corruption, temperature=schedule).double()
    z = guide.posterior(X).sample()
    buffer = guide.temperature.value
    graph = record(lambda buffer, z: _at(guide, buffer).posterior(X).log_prob(z), buffer, z)
    guide.set_epoch(4)
    assert float(guide.temperature()) == 0.5
    assert float(corruption.rate()) == pytest.approx(0.1)
    torch.testing.assert_close(graph(buffer, z), guide.posterior(X).log_prob(z))


def _at(guide, buffer):
    guide.temperature.value = buffer
    return guide


def test_relaxed_bits_are_finite_in_single_precision_even_if_the_code_is_not():
    guide = guides.ConcreteGuide.of_sizes(D, 4, (5,), temperature=0.01)
    prior = priors.ConcretePrior(4, temperature=0.01)
    model = dv.LatentVariableModel(BernoulliDecoder(D, 4, (5,)), prior)
    x = X.float().repeat(500, 1)
    code = prior.code(guide.posterior(x).sample())
    assert ((code == 0) | (code == 1)).any()
    loss = dv.TraceDenoising_ELBO().differentiable_loss(model, guide, x)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), *guide.parameters()])


CLASSES = [
    guides.BernoulliGuide,
    guides.CategoricalGuide,
    guides.ConcreteGuide,
    guides.GumbelSoftmaxGuide,
]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("leading", [(), (3,), (2, 4, 3)])
def test_any_leading_dims_and_types(kind, leading):
    for dtype in (torch.float32, torch.float64):
        guide = kind.of_sizes(D, 4, (5,)).to(dtype)
        x = torch.rand(*leading, D, dtype=dtype)
        fn = guide.posterior(x)
        z = fn.sample()
        assert (z.shape, z.dtype) == ((*leading, 4), dtype)
        assert fn.log_prob(z).shape == leading
        assert fn.has_rsample == (kind in CLASSES[2:])


@pytest.mark.parametrize("kind", CLASSES)
def test_bad_input_is_refused(kind):
    with pytest.raises(InputError, match=r"^x: expected a last dimension of 3"):
        kind.of_sizes(D, 4)(torch.rand(5, 4))
    with pytest.raises(InputError, match=r"^encoder: expected a torch.nn.Module"):
        kind(lambda x: x)


@pytest.mark.parametrize("kind", [guides.CategoricalGuide, guides.GumbelSoftmaxGuide])
def test_categories_must_divide_the_logits(kind):
    with pytest.raises(InputError, match=r"^encoder: expected logits of a multiple of 3 categories, got 4"):
        kind.of_sizes(D, 4, categories=3)(X.float())
    with pytest.raises(InputError, match=r"^categories: expected a whole number of at least 2, got 1"):
        kind.of_sizes(D, 4, categories=1)
