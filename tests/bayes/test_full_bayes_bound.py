"""Full variational Bayes against the closed form of a linear-Gaussian network with Gaussian weights."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates, gradients
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn

import pyro_dvae as dv
from pyro_dvae.models.bayes import FullBayes
from pyro_dvae.sites import Auxiliary

N, D, d = 6, 3, 2
SIGMA = 0.4


class LinearEncoder(nn.Module):
    def __init__(self, data_size=D, latent_size=d):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(latent_size, data_size, generator=generator, dtype=torch.float64)
        self.A = nn.Parameter(0.3 * values)
        self.c = nn.Parameter(torch.full((latent_size,), 0.1, dtype=torch.float64))
        self.log_v = nn.Parameter(torch.full((latent_size,), -1.0, dtype=torch.float64))

    def forward(self, x):
        loc = x @ self.A.T + self.c
        return loc, (self.log_v / 2).exp().expand(loc.shape)


class LinearDecoder(nn.Module):
    def __init__(self, data_size=D, latent_size=d, scale=0.7):
        super().__init__()
        torch.manual_seed(2)
        self.latent_size, self.scale = latent_size, scale
        self.layer = nn.Linear(latent_size, data_size).double()

    def forward(self, z):
        return dist.Normal(self.layer(z), self.scale).to_event(1)


def problem(noise=SIGMA, **settings):
    corruption = dv.GaussianNoise(torch.tensor(noise, dtype=torch.float64)) if noise else None
    guide = dv.GaussianGuide(LinearEncoder(), corruption)
    return FullBayes(LinearDecoder(), guide, N, weight_prior=1.5, initial_scale=0.3, **settings)


def data(count=N):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def divergence(bayes):
    """KL(q(w) ‖ p(w)) by hand."""
    total = 0.0
    scales = bayes.guide.weights.scales()
    for name, loc in bayes.guide.weights.means().items():
        s, p = scales[name], bayes.model.weight_prior.scale
        total = total + (math.log(p) - s.log() + (s**2 + loc**2) / (2 * p**2) - 0.5).sum()
    return total


def expected_l_dvae(bayes, x, noise=SIGMA):
    """E_q(w) of the denoising bound of each row of x (nats), by hand."""
    encoder = bayes.guide.guide.encoder
    loc, scale = bayes.guide.weights.means(), bayes.guide.weights.scales()
    M, v_M = loc["layer.weight"], scale["layer.weight"] ** 2
    b, v_b = loc["layer.bias"], scale["layer.bias"] ** 2
    m, v = x @ encoder.A.T + encoder.c, encoder.log_v.exp()
    S = noise**2 * encoder.A @ encoder.A.T + torch.diag(v)
    second = m.unsqueeze(-1) * m.unsqueeze(-2) + S
    spread = (v_M * second.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)).sum(-1) + v_b
    error = (x - b - m @ M.T) ** 2 + ((M @ S) * M).sum(-1) + spread
    s = bayes.model.network.decoder.scale
    likelihood = -D / 2 * math.log(2 * math.pi * s**2) - error.sum(-1) / (2 * s**2)
    prior = -d / 2 * math.log(2 * math.pi) - second.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
    return likelihood + prior + 0.5 * torch.log(2 * math.pi * math.e * v).sum()


pytestmark = pytest.mark.filterwarnings("ignore:.*so one importance weight covers all of them")

BOUNDS = [
    lambda m=1, k=1, **more: dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, **more),
    lambda m=1, k=1, **more: dv.TraceMeanFieldDenoising_ELBO(num_corruptions=m, num_particles=k, **more),
    lambda m, k, **more: dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, gradient="stl", **more),
    lambda m, k, **more: dv.TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=1, **more),
    lambda m, k, **more: dv.TraceSemiImplicit_ELBO(num_corruptions=m, num_particles=k, num_mixture=0, **more),
]
NAMES = ["sampled", "mean field", "stl", "iwae of one", "semi-implicit of one"]


@pytest.mark.parametrize(("m", "k"), [(1, 1), (4, 5)])
@pytest.mark.parametrize("kind", BOUNDS, ids=NAMES)
def test_bound_and_every_gradient_of_a_mini_batch(kind, m, k):
    bayes, x = problem(), data()[:2]
    exact = N / 2 * expected_l_dvae(bayes, x).sum() - divergence(bayes)
    exact.backward()
    wanted = gradients(bayes)
    bound = kind(m, k, max_plate_nesting=1)
    losses, grads = [], []
    for _ in range(50):
        losses.append(bound.loss_and_grads(bayes.model, bayes.guide, x))
        grads.append(gradients(bayes))
    check_estimates("bound", -torch.tensor(losses, dtype=torch.float64), exact.detach())
    for name, value in wanted.items():
        assert bool((value != 0).any()), name
        check_estimates(name, -torch.stack([grad[name] for grad in grads]), value)


@pytest.mark.parametrize(
    "stock", [Trace_ELBO(), Trace_ELBO(num_particles=3, vectorize_particles=True), TraceMeanField_ELBO()]
)
def test_stock_elbos_compute_the_same(stock):
    bayes, x = problem(), data()[:2]
    exact = (N / 2 * expected_l_dvae(bayes, x).sum() - divergence(bayes)).detach()
    losses = [-stock.loss(bayes.model, bayes.guide, x) for _ in range(120)]
    check_estimates("bound", torch.tensor(losses, dtype=torch.float64), exact)


class AtMeans(Messenger):
    """Every site of a guide takes the mean of its distribution, so nothing is random."""

    def _pyro_sample(self, msg):
        if not site_is_subsample(msg):
            fn = msg["fn"]
            msg["value"], msg["done"] = fn.clean if isinstance(fn, Auxiliary) else fn.mean, True


def at_means(bound, bayes, x):
    guide = AtMeans()(lambda x: bayes.guide(x))
    return bound.loss(bayes.model, guide, x)


@pytest.mark.parametrize("kind", BOUNDS[:2], ids=NAMES[:2])
def test_the_mean_over_all_mini_batches_is_the_bound_of_the_data_set(kind):
    bayes, x = problem(noise=0.0), data()
    bound = kind()
    whole = at_means(bound, bayes, x)
    for size in (1, 2, 3):
        batches = [list(rows) for rows in itertools.combinations(range(N), size)]
        losses = [at_means(bound, bayes, x[rows]) for rows in batches]
        assert sum(losses) / len(losses) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", BOUNDS[:2], ids=NAMES[:2])
def test_shares_of_a_partition_add_up_to_the_bound_of_the_data_set(kind):
    whole = at_means(kind(1, 1), problem(noise=0.0), data())
    pyro.clear_param_store()
    bayes = problem(noise=0.0, bound_of="batch")
    parts = [at_means(kind(1, 1), bayes, rows) for rows in data().split(4)]  # the last is smaller
    assert sum(parts) == pytest.approx(whole, rel=1e-12)


def test_the_closed_form_has_the_lower_variance():
    bayes, x = problem(), data()
    bayes.model.network.decoder.scale = 5.0  # so that the noise is that of the divergences
    sampled, closed = (
        torch.tensor([bound.loss(bayes.model, bayes.guide, x) for _ in range(120)])
        for bound in (dv.TraceDenoising_ELBO(), dv.TraceMeanFieldDenoising_ELBO())
    )
    assert abs(float(sampled.mean() - closed.mean())) < 5 * math.sqrt(
        float(sampled.var() + closed.var()) / 120
    )
    assert float(closed.var()) < 0.9 * float(sampled.var())


def test_each_draw_has_weights_of_its_own():
    bayes, x = problem(), data()
    draws = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3).draws(
        bayes.model, bayes.guide, (x,), {}
    )
    weights = draws.guide_trace.nodes["decoder.layer.weight"]["value"]
    assert weights.shape == (3, 2, 1, D, d)
    assert len(weights.reshape(6, -1).unique(dim=0)) == 6
    assert draws.model_trace.nodes["x"]["fn"].batch_shape == (3, 2, N)


def one_weight(draws=20_000):
    """One datum has D = d = 1, no bias: log p(X) = log ∫ N(w; 0, 1) Π_n N(x_n; 0, w² + s²) dw."""
    decoder = LinearDecoder(1, 1, scale=0.5)
    decoder.layer = nn.Linear(1, 1, bias=False).double()
    guide = dv.GaussianGuide(LinearEncoder(1, 1))
    bayes = FullBayes(decoder, guide, 3, initial_scale=0.4)
    x = torch.tensor([[0.8], [-1.1], [0.3]], dtype=torch.float64)
    grid = torch.linspace(-12, 12, draws + 1, dtype=torch.float64)
    return bayes, x, grid


def integral(log_values, grid):
    return torch.logsumexp(log_values, 0) + math.log(float(grid[1] - grid[0]))


def test_importance_weights_of_the_whole_data_set_bound_its_evidence():
    bayes, x, grid = one_weight()
    prior = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(grid)
    given = dist.Normal(0.0, (grid**2 + 0.25).sqrt()).log_prob(x).sum(0)
    evidence = float(integral(prior + given, grid))
    values = {}
    for k in (1, 20, 2000):
        bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=k, max_plate_nesting=1)
        losses = [-bound.loss(bayes.model, bayes.guide, x) for _ in range(50)]
        values[k] = torch.tensor(losses, dtype=torch.float64)
        assert float(values[k].mean()) < evidence + 5 * float(values[k].std()) / 50**0.5
    assert float(values[1].mean()) < float(values[20].mean()) < float(values[2000].mean())
    assert float(values[2000].mean()) > evidence - 0.25


REFUSED = [
    dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=2),
    dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=1, combine="pooled"),
    dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=1, combine="mixture"),
    dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=2, gradient="dreg"),
    dv.TraceSemiImplicit_ELBO(num_mixture=2),
]


@pytest.mark.parametrize("bound", REFUSED)
def test_importance_weights_of_a_mini_batch_are_refused_with_the_remedy(bound):
    bayes, x = problem(), data()
    for call in (bound.loss, bound.loss_and_grads, bound.per_datum):
        with pytest.raises(dv.InputError, match=r"'data' is subsampled.*'decoder.*TraceDenoising_ELBO"):
            call(bayes.model, bayes.guide, x[:2])
    assert math.isfinite(bound.loss(bayes.model, bayes.guide, x))


def test_a_mini_batch_would_lie_above_the_evidence():
    """The reason for the error: the same estimate without the check."""
    bayes, x, _ = one_weight()
    bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=500, max_plate_nesting=1)
    whole = torch.tensor([-bound.loss(bayes.model, bayes.guide, x) for _ in range(40)])
    scaled = []
    for row in range(3):
        model, guide = (poutine.scale(program, 3.0) for program in _single(bayes))
        scaled += [-bound.loss(model, guide, x[row : row + 1]) for _ in range(40)]
    scaled = torch.tensor(scaled)
    assert float(scaled.mean()) > float(whole.mean()) + 0.1


def _single(bayes):
    """A single datum, its weights at scale 1/3: within scale 3 this is a mini-batch of one."""

    def model(x):
        with poutine.scale(scale=1 / 3):
            weights = {
                name: pyro.sample(f"decoder.{name}", prior) for name, prior in bayes.model.priors(x).items()
            }
        z = pyro.sample("z", bayes.model.prior(x))
        pyro.sample("x", bayes.model.network(weights, z), obs=x)

    def guide(x):
        with poutine.scale(scale=1 / 3):
            bayes.guide.weights.sample()
        bayes.guide.guide.sample(x)

    return model, guide


def test_predictive_log_likelihood_is_the_integral_over_the_weights():
    bayes, x, grid = one_weight()
    (loc,), (scale,) = bayes.guide.weights.means().values(), bayes.guide.weights.scales().values()
    posterior = dist.Normal(loc.detach().squeeze(), scale.detach().squeeze()).log_prob(grid)
    given = dist.Normal(0.0, (grid**2 + 0.25).sqrt()).log_prob(x)
    exact = integral((posterior + given).T, grid)
    found = dv.log_likelihood(
        bayes.predictive(), bayes.guide.guide, x, num_samples=20_000, seed=1, keep_log_weight=True
    )
    check_estimates("likelihood", found.log_weight.T.exp(), exact.exp())
    assert not bayes.predictive()(x).isnan().any()


def test_predictive_bound_is_the_expected_bound():
    bayes, x = problem(noise=0.0), data()
    exact = expected_l_dvae(bayes, x, noise=0.0).detach()
    bound = dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=50)
    found = [
        dv.evaluate_bound(bayes.predictive(), bayes.guide.guide, x, loss=bound).per_datum for _ in range(40)
    ]
    check_estimates("bound", torch.stack(found), exact)
