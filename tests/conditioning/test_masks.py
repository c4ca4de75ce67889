"""Cells that are missing not at random, against quadrature over the missing cells."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.networks import SelfMasking

WEIGHT = torch.tensor([0.8, 1.2], dtype=torch.float64)
BIAS = torch.tensor([0.3, -0.5], dtype=torch.float64)
SCALE = torch.tensor([0.5, 0.7], dtype=torch.float64)
ROWS = torch.tensor(
    [[0.9, math.nan], [math.nan, -1.0], [math.nan, math.nan], [0.1, 0.4]], dtype=torch.float64
)
OPTIONS = {"num_draws": 4000, "num_samples": 4000, "seed": 0, "progress": False}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * WEIGHT + BIAS, SCALE).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        noisy = dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x)
        pyro.sample("z", dist.Normal(0.3 * noisy.sum(-1), 0.8))


def mask_model():
    found = SelfMasking(2).double()
    with torch.no_grad():
        found.intercept.copy_(torch.tensor([0.5, -0.3]))
        found.slope.copy_(torch.tensor([-1.5, -2.0]))  # high values are missing
    return found


def exact(row, masks):
    """Return log p(x_observed, s) and E(x | x_observed, s) by quadrature over the missing cells."""
    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    seen = ~row.isnan()
    axes = [row[j : j + 1] if seen[j] else grid for j in range(2)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    covariance = WEIGHT[:, None] * WEIGHT + SCALE.square().diag()
    log_p = MultivariateNormal(BIAS, covariance).log_prob(points)
    log_p = log_p + dist.Bernoulli(logits=masks(points)).log_prob(seen.double().expand_as(points)).sum(-1)
    total = log_p.logsumexp(0)
    step = math.log(float(grid[1] - grid[0])) * int((~seen).sum())
    return total + step, ((log_p - total).exp()[:, None] * points).sum(0)


def test_conditioning_agrees_with_quadrature():
    masks = mask_model()
    found = dv.condition(model, guide, ROWS, mask_model=masks, **OPTIONS)
    at_random = dv.condition(model, guide, ROWS, **OPTIONS)
    assert bool(found.reliable.all())
    with torch.no_grad():
        for row, wanted in enumerate([exact(each, masks) for each in ROWS]):
            log_p, mean = wanted
            assert abs(float(found.log_likelihood[row] - log_p)) < 5 * float(found.standard_error[row]) + 1e-6
            spread = found.standard_deviation[row]
            error = 5 * spread / math.sqrt(min(4000.0, float(found.ess[row])))
            assert bool(((found.mean[row] - mean).abs() <= error + 1e-12).all()), (row, found.mean[row], mean)
            missing = ROWS[row].isnan()
            assert bool((found.mean[row] > at_random.mean[row] + 0.1)[missing].all())


def test_the_importance_weighted_bound_and_its_gradient():
    masks = mask_model()
    gap_model, gap_guide = dv.with_gaps(model, guide, mask_model=masks)
    x, seen = dv.fill_gaps(ROWS)
    loss = dv.TraceDenoisingIWAE_ELBO(num_particles=40_000)
    loss.loss_and_grads(gap_model, gap_guide, x, seen)
    value = loss.loss(gap_model, gap_guide, x, seen)
    evidence = torch.stack([exact(row, masks)[0] for row in ROWS]).sum()
    wanted = torch.autograd.grad(evidence, list(masks.parameters()))
    assert -value == pytest.approx(evidence.item(), abs=0.05)
    for each, slope in zip(masks.parameters(), wanted, strict=True):
        torch.testing.assert_close(-each.grad, slope, rtol=0.03, atol=0.03)


def test_training_undoes_the_bias_of_what_is_missing():
    """Half of a column is missing, mostly its high values: at random, its mean is learned too low."""
    torch.manual_seed(0)
    x = torch.randn(3000, 1) * 0.8 + torch.randn(3000, 2) * 0.4
    hidden = torch.rand(3000) < torch.sigmoid(4 * x[:, 1])
    rows = x.clone()
    rows[hidden, 1] = math.nan
    known = SelfMasking(2).requires_grad_(False)
    known.slope[1], known.intercept[0] = -4.0, 20.0
    means = {}
    for name, masks in (("at random", None), ("not at random", known)):
        pyro.clear_param_store()

        def own_model(x):
            bias = pyro.param("bias", torch.zeros(2))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(0.8 * z[..., None] + bias, 0.4).to_event(1), obs=x)

        def own_guide(x):
            weight = pyro.param("weight", torch.full((2,), 0.3))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x @ weight, 0.5))

        pair = dv.with_gaps(own_model, own_guide, mask_model=masks)
        filled, seen = dv.fill_gaps(rows)
        loss = dv.TraceDenoisingIWAE_ELBO(num_particles=10)
        options = {"epochs": 10, "learning_rate": 0.02, "progress": False, "compile": False}
        dv.fit(*pair, filled, seen, loss=loss, **options)
        means[name] = pyro.param("bias")[1].item()
    true = float(x[:, 1].mean())
    assert means["at random"] < true - 0.1
    assert abs(means["not at random"] - true) < 0.05


def counts(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Poisson(z.exp()[..., None] * WEIGHT).to_event(1), obs=x)


def test_what_cannot_be_done_is_refused():
    rows = torch.tensor([[1.0, math.nan]], dtype=torch.float64)
    with pytest.raises(InputError, match="under Poisson have no quantile function"):
        dv.condition(counts, guide, rows, mask_model=mask_model())
    with pytest.raises(InputError, match="mask_model: expected logits of the rows' shape"):
        dv.condition(model, guide, rows, mask_model=lambda x: x.sum(-1))
    with pytest.raises(InputError, match="mask_model: expected a callable"):
        dv.with_gaps(model, guide, mask_model="self")
