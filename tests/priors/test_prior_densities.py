"""Each prior against a naive computation, and its mass by quadrature or enumeration, in float64."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from torch.distributions import RelaxedBernoulli

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.networks import BernoulliDecoder
from pyro_dvae.priors import (
    BernoulliPrior,
    CategoricalPrior,
    ConcretePrior,
    FlowPrior,
    GaussianPair,
    GumbelSoftmaxPrior,
    MixturePrior,
    SparseBeta,
    VampPrior,
)

LIKE = torch.zeros(2, dtype=torch.float64)


def mass(prior, limit, count=200_001):
    """The integral of a prior's density of one latent."""
    points = torch.linspace(-limit, limit, count, dtype=torch.float64)
    density = prior.double()(LIKE).log_prob(points[:, None]).exp()
    return float(torch.trapezoid(density, points).detach())


def normal_log_prob(z, loc, scale):
    return (-((z - loc) ** 2) / (2 * scale**2) - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


CONTINUOUS = {
    "pair": (lambda: GaussianPair(1), 5),
    "wide pair": (lambda: GaussianPair(1, 3.0, 0.5), 10),
    "sparse": (lambda: SparseBeta(1), 100),
    "sparser": (lambda: SparseBeta(1, (0.1, 0.3)), 500),
    "mixture": (lambda: MixturePrior(1, 4), 20),
    "vamp": (lambda: VampPrior.of_sizes(6, 1, components=7), 30),
    "concrete": (lambda: ConcretePrior(1, 0.3), 100),
    "cold concrete": (lambda: ConcretePrior(1, 0.9, temperature=0.1), 400),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_density_is_normalised(name):
    torch.manual_seed(0)
    prior, limit = CONTINUOUS[name]
    assert mass(prior(), limit) == pytest.approx(1.0, abs=1e-6)


def test_a_gaussian_pair():
    prior = GaussianPair(3, separation=2.0, scale=0.3)
    z = torch.randn(7, 3, dtype=torch.float64)

    def density(loc):
        return (-((z - loc) ** 2) / (2 * 0.09)).exp() / (0.3 * math.sqrt(2 * math.pi))

    expected = (0.5 * density(0.0) + 0.5 * density(2.0)).log().sum(-1)
    torch.testing.assert_close(prior(LIKE).log_prob(z), expected, rtol=0, atol=1e-10)
    draws = prior(LIKE).sample((5000,))
    check_estimates("share of ones", (draws > 1).double(), torch.tensor(0.5, dtype=torch.float64))
    check_estimates("variance", (draws - 1) ** 2, torch.tensor(1.09, dtype=torch.float64))
    assert torch.equal(prior.code(z), z)


@pytest.mark.parametrize("argument", ["separation", "scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, "wide"])
def test_a_gaussian_pair_refuses_bad_settings(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: expected a number"):
        GaussianPair(2, **{argument: value})


def test_a_sparse_beta_is_a_beta_of_its_code():
    prior = SparseBeta(2, (0.3, 0.6))
    z = 3 * torch.randn(9, 2, dtype=torch.float64)
    code = prior.code(z)
    assert ((code > 0) & (code < 1)).all()
    beta = dist.Beta(LIKE.new_tensor(0.3), LIKE.new_tensor(0.6)).log_prob(code)
    expected = (beta + code.log() + torch.log1p(-code)).sum(
        -1
    )  # the density of z = that of its code, times dcode/dz
    torch.testing.assert_close(prior(LIKE).log_prob(z), expected, rtol=0, atol=1e-10)
    draws = prior.code(prior(LIKE).sample((20_000,)))
    check_estimates("mean code", draws, LIKE.new_tensor(1 / 3))
    arcsine = SparseBeta(1).double()
    ends = (arcsine.code(arcsine(LIKE).sample((20_000,))) - 0.5).abs() > 0.45
    check_estimates("near 0 or 1", ends.double(), LIKE.new_tensor(4 / math.pi * math.asin(math.sqrt(0.05))))


@pytest.mark.parametrize("shapes", [0.5, (0.5,), (0.5, 1.0), (0.0, 0.5), (-0.1, 0.5), ("a", 0.5), None])
def test_a_sparse_beta_refuses_bad_shapes(shapes):
    with pytest.raises(InputError, match=r"^shapes: expected"):
        SparseBeta(2, shapes)


def randomised(prior):
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return prior.double()


def test_a_mixture_and_its_gradients():
    prior = randomised(MixturePrior(3, 4))
    z = torch.randn(7, 3, dtype=torch.float64)
    each = torch.stack([normal_log_prob(z, prior.loc[k], prior.log_scale[k].exp()) for k in range(4)])
    expected = torch.logsumexp(each + prior.logits.log_softmax(0)[:, None], 0)
    actual = prior(LIKE).log_prob(z)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    parameters = list(prior.parameters())
    for found, exact in zip(
        torch.autograd.grad(actual.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


def test_a_vamp_prior_is_the_mixture_of_the_posteriors():
    guide = GaussianGuide.of_sizes(6, 3, (5,), corruption=dv.SaltAndPepper(0.3)).double()
    inputs = torch.rand(4, 6, dtype=torch.float64)
    prior = VampPrior(guide, inputs).double()
    assert torch.equal(prior.pseudo_inputs, inputs)
    z = torch.randn(7, 3, dtype=torch.float64)
    each = torch.stack([normal_log_prob(z, *guide.encoder(prior.pseudo_inputs[k])) for k in range(4)])
    expected = torch.logsumexp(each, 0) - math.log(4)
    actual = prior(LIKE).log_prob(z)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    parameters = list(prior.parameters())
    for found, exact in zip(
        torch.autograd.grad(actual.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("local", [False, True])
def test_a_vamp_prior_shares_the_guide_of_its_model(local):
    x = (torch.rand(20, 6) > 0.5).float()
    with pyro.settings.context(module_local_params=local):
        guide = GaussianGuide.of_sizes(6, 2, (5,))
        prior = VampPrior(guide, x[:4])
        model = dv.LatentVariableModel(BernoulliDecoder(6, 2, (5,)), prior)
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), dv.TraceDenoising_ELBO())
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        svi.step(x)
        for name, value in model.named_parameters():
            assert not torch.equal(value, before[name]), name
        assert prior.posterior.encoder.head.weight is guide.encoder.head.weight
        history = dv.fit(
            model, guide, x, loss=dv.TraceDenoising_ELBO(), epochs=2, batch_size=10, progress=False
        ).history
        assert math.isfinite(history.train_bound[-1])


def test_a_vamp_prior_refuses_what_it_cannot_use():
    guide = GaussianGuide.of_sizes(6, 2)
    with pytest.raises(InputError, match=r"^posterior: expected an amortised guide, got Linear"):
        VampPrior(torch.nn.Linear(6, 2), torch.rand(3, 6))
    with pytest.raises(InputError, match=r"^pseudo_inputs: expected shape"):
        VampPrior(guide, torch.rand(6))
    with pytest.raises(InputError, match=r"^pseudo_inputs: expected finite"):
        VampPrior(guide, torch.full((2, 6), math.nan))
    with pytest.raises(InputError, match=r"^x: expected a last dimension of 6"):
        VampPrior(guide, torch.rand(3, 5))


def flow(layers=3, scale=0.3):
    torch.manual_seed(0)
    prior = FlowPrior(2, layers, hidden_size=7).double()
    for layer in prior.couplings:
        torch.nn.init.normal_(layer.head.weight, std=scale)
    return prior


def test_a_flow_starts_near_the_standard_normal():
    prior = FlowPrior(3).double()
    z = torch.randn(7, 3, dtype=torch.float64)
    standard = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(prior(LIKE).log_prob(z), standard, rtol=0, atol=0.2)


def test_a_flow_is_normalised_and_has_the_density_of_its_jacobian():
    prior = flow()
    points = torch.linspace(-12, 12, 601, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(points, points, indexing="ij"), -1)
    assert float(prior(LIKE).log_prob(z).exp().sum().detach()) * 0.04**2 == pytest.approx(1.0, abs=1e-5)
    layers = list(prior(LIKE).transforms)

    def forward(u):
        for layer in layers:
            u = layer(u)
        return u

    for u in torch.randn(5, 2, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(forward, u)
        expected = dist.Normal(0.0, 1.0).log_prob(u).sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(prior(LIKE).log_prob(forward(u)), expected, rtol=0, atol=1e-10)


def test_gradients_of_a_flow_match_finite_differences():
    prior = flow(2)
    names, values = zip(*prior.named_parameters(), strict=True)
    z = torch.randn(4, 2, dtype=torch.float64)

    def density(*parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(prior, named, (LIKE,)).log_prob(z)

    assert torch.autograd.gradcheck(density, values)


@pytest.mark.slow
def test_a_flow_learns_a_density_that_no_gaussian_has():
    """A ring: within 0.1 nats of its entropy, where the Gaussian of its moments is 0.6 off."""
    torch.manual_seed(0)
    angle = torch.rand(1000, dtype=torch.float64) * 2 * math.pi
    radius = 2 + 0.3 * torch.randn(1000, dtype=torch.float64)
    z = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    exact = dist.Normal(2.0, 0.3).log_prob(radius) - (2 * math.pi * radius.abs()).log()
    prior = FlowPrior(2, 6, 24).double()
    optimiser = torch.optim.LBFGS(prior.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def negative():
        optimiser.zero_grad()
        loss = -prior(LIKE).log_prob(z).mean()
        loss.backward()
        return loss

    optimiser.step(negative)
    loss = negative()
    gaussian = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov()).log_prob(z).mean()
    assert float(exact.mean() - gaussian) > 0.5
    assert float(exact.mean() + loss.detach()) < 0.15


def test_a_flow_of_one_latent_is_refused():
    with pytest.raises(InputError, match=r"^latent_size: expected at least 2 latents to couple, got 1"):
        FlowPrior(1)


@pytest.mark.parametrize("probability", [0.5, 0.2, torch.tensor([0.1, 0.5, 0.9])])
@pytest.mark.parametrize("learnable", [False, True])
def test_bits(probability, learnable):
    prior = BernoulliPrior(3, probability, learnable=learnable).double()
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    p = torch.as_tensor(probability, dtype=torch.float64).expand(3)
    expected = (z * p + (1 - z) * (1 - p)).prod(-1)
    found = prior(LIKE).log_prob(z).exp()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.sum(), LIKE.new_tensor(1.0))
    assert len(list(prior.parameters())) == learnable
    if learnable:
        (gradient,) = torch.autograd.grad(prior(LIKE).log_prob(z[0]), [prior.logits])
        torch.testing.assert_close(gradient, -prior.logits.sigmoid())


@pytest.mark.parametrize("kind", [BernoulliPrior, ConcretePrior])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, "even", torch.tensor([0.5, 0.5]), torch.tensor([1, 1, 1])])
def test_bad_probabilities_are_refused(kind, value):
    with pytest.raises(InputError, match=r"^probability: expected"):
        kind(3, value)


@pytest.mark.parametrize("learnable", [False, True])
def test_categories(learnable):
    prior = CategoricalPrior(6, 3, learnable=learnable).double()
    if learnable:
        torch.nn.init.normal_(prior.logits)
    unit = torch.eye(3, dtype=torch.float64)
    z = torch.stack([torch.cat(pair) for pair in itertools.product(unit, unit)])
    p = prior.logits.softmax(-1)
    expected = (p[0][:, None] * p[1]).flatten()
    torch.testing.assert_close(prior(LIKE).log_prob(z).exp(), expected)
    assert len(list(prior.parameters())) == learnable
    assert CategoricalPrior(6).categories == 6


@pytest.mark.parametrize("kind", [CategoricalPrior, GumbelSoftmaxPrior])
@pytest.mark.parametrize("categories", [0, 1, 4, 12, 2.0, "two"])
def test_bad_categories_are_refused(kind, categories):
    with pytest.raises(InputError, match=r"^categories: expected"):
        kind(6, categories)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 2.0])
def test_a_concrete_prior_is_a_relaxed_bernoulli_of_its_code(temperature):
    p = torch.tensor([0.3, 0.8], dtype=torch.float64)
    prior = ConcretePrior(2, p, temperature=temperature).double()
    z = torch.randn(9, 2, dtype=torch.float64)
    code = prior.code(z)
    relaxed = RelaxedBernoulli(prior.temperature(), p).log_prob(code)
    expected = (relaxed + code.log() + torch.log1p(-code)).sum(-1)
    torch.testing.assert_close(prior(LIKE).log_prob(z), expected, rtol=0, atol=1e-8)
    draws = prior.code(prior(LIKE).sample((20_000,)))
    check_estimates("share above one half", (draws > 0.5).double(), p)


def log_of_simplex(ratios):
    """Logarithms of points of the simplex, by the log ratios of their elements to the last."""
    return torch.log_softmax(torch.cat([ratios, torch.zeros_like(ratios[..., :1])], -1), -1)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_relaxed_categories_are_normalised(temperature):
    prior = GumbelSoftmaxPrior(3, temperature=temperature).double()
    points = torch.linspace(-80, 80, 641, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(points, points, indexing="ij"), -1)
    density = prior(LIKE).log_prob(log_of_simplex(grid)).exp()
    assert float(density.sum()) * 0.25**2 == pytest.approx(1.0, abs=1e-6)
    draws = prior(LIKE).sample((20_000,))
    torch.testing.assert_close(prior.code(draws).sum(-1), torch.ones(20_000, dtype=torch.float64))
    largest = torch.nn.functional.one_hot(draws.argmax(-1), 3).double()
    check_estimates("largest", largest, LIKE.new_tensor(1 / 3))


def test_two_relaxed_categories_are_a_relaxed_bit():
    z = torch.randn(9, 1, dtype=torch.float64)
    bit = ConcretePrior(1, temperature=0.7).double()(LIKE).log_prob(z)
    two = GumbelSoftmaxPrior(2, temperature=0.7).double()(LIKE).log_prob(log_of_simplex(z))
    torch.testing.assert_close(two, bit, rtol=0, atol=1e-7)


def test_straight_through_bits():
    prior = ConcretePrior(3, straight_through=True)
    z = torch.tensor([-2.0, 0.5, 40.0], dtype=torch.float64, requires_grad=True)
    assert prior.code(z).tolist() == [0.0, 1.0, 1.0]
    (gradient,) = torch.autograd.grad(prior.code(z).sum(), [z])
    torch.testing.assert_close(gradient, (z.sigmoid() * (1 - z.sigmoid())).detach())


def test_straight_through_categories():
    prior = GumbelSoftmaxPrior(4, 2, straight_through=True)
    z = log_of_simplex(torch.tensor([[1.0], [-3.0]], dtype=torch.float64)).flatten().requires_grad_()
    assert prior.code(z).tolist() == [1.0, 0.0, 0.0, 1.0]
    (gradient,) = torch.autograd.grad(prior.code(z).sum(), [z])
    torch.testing.assert_close(gradient, z.exp().detach())


@pytest.mark.parametrize("kind", [ConcretePrior, GumbelSoftmaxPrior])
def test_a_scheduled_temperature(kind):
    prior = kind(2, temperature=dv.LinearSchedule(1.0, 0.5, 4))
    z = prior(LIKE).sample()
    hot = prior(LIKE).log_prob(z)
    prior.set_epoch(4)
    torch.testing.assert_close(prior(LIKE).log_prob(z), kind(2, temperature=0.5)(LIKE).log_prob(z))
    prior.set_epoch(0)
    assert torch.equal(prior(LIKE).log_prob(z), hot)


@pytest.mark.parametrize(
    "prior",
    [GaussianPair(2), SparseBeta(2), MixturePrior(2), FlowPrior(2), VampPrior.of_sizes(6, 2)],
    ids=lambda prior: type(prior).__name__,
)
def test_a_divergence_without_closed_form_is_sampled(prior):
    model = dv.LatentVariableModel(BernoulliDecoder(6, 2, (5,)), prior)
    guide = GaussianGuide.of_sizes(6, 2, (5,), corruption=dv.BitFlip(0.2))
    x = (torch.rand(5, 6) > 0.5).float()
    losses = []
    for bound in (
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3),
        dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3),
    ):
        pyro.set_rng_seed(3)
        losses.append(bound.per_datum(model, guide, x))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("prior", [SparseBeta(2), GaussianPair(2)], ids=lambda prior: type(prior).__name__)
def test_annealing_finds_the_likelihood_under_a_prior(prior):
    model = dv.LatentVariableModel(BernoulliDecoder(6, 2, (5,)), prior).double()
    guide = GaussianGuide.of_sizes(6, 2, (5,)).double()
    x = (torch.rand(3, 6) > 0.5).double()
    points = torch.linspace(-40, 40, 1001, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    likelihood = torch.stack([model.decoder(prior.code(z)).log_prob(row) for row in x])
    exact = torch.logsumexp(likelihood + prior(x).log_prob(z), -1) + 2 * math.log(80 / 1000)
    found = dv.annealed_log_likelihood(
        model, guide, x, num_steps=10, num_chains=500, leapfrog_steps=3, seed=0
    )
    torch.testing.assert_close(found.log_likelihood, exact.detach(), rtol=0, atol=0.1)


@pytest.mark.parametrize("kind", ["Bernoulli", "Categorical", "GumbelSoftmax"])
def test_annealing_refuses_latents_that_it_cannot_move(kind):
    prior = {
        "Bernoulli": BernoulliPrior(2),
        "Categorical": CategoricalPrior(2),
        "GumbelSoftmax": GumbelSoftmaxPrior(2),
    }[kind]
    guide = getattr(dv.guides, f"{kind}Guide").of_sizes(6, 2, (5,))
    model = dv.LatentVariableModel(BernoulliDecoder(6, 2, (5,)), prior)
    with pytest.raises(InputError, match="annealing and refinement follow gradients"):
        dv.annealed_log_likelihood(model, guide, torch.ones(2, 6))
