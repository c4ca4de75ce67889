"""Closed forms of the KL divergence against sampling, and the pairs without a closed form."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import transforms

from pyro_dvae.distributions.divergence import PAIRS, closed_form_kl

tensor = torch.tensor
EXAMPLES = {  # pairs of settings: the first as q, the second as p
    "Bernoulli": [{"probs": 0.3}, {"probs": 0.6}],
    "Beta": [{"concentration1": 2.5, "concentration0": 3.0}, {"concentration1": 1.5, "concentration0": 2.0}],
    "Binomial": [{"total_count": 5, "probs": 0.3}, {"total_count": 5, "probs": 0.6}],
    "Categorical": [{"probs": [0.2, 0.5, 0.3]}, {"probs": [0.4, 0.4, 0.2]}],
    "Cauchy": [{"loc": 0.3, "scale": 0.7}, {"loc": -0.2, "scale": 1.1}],
    "ContinuousBernoulli": [{"probs": 0.3}, {"probs": 0.7}],
    "Dirichlet": [{"concentration": [2.0, 3.0]}, {"concentration": [1.5, 1.0]}],
    "Exponential": [{"rate": 1.4}, {"rate": 0.6}],
    "Gamma": [{"concentration": 2.5, "rate": 1.5}, {"concentration": 1.7, "rate": 0.8}],
    "Geometric": [{"probs": 0.4}, {"probs": 0.25}],
    "Gumbel": [{"loc": 0.2, "scale": 0.6}, {"loc": -0.1, "scale": 0.9}],
    "HalfNormal": [{"scale": 0.6}, {"scale": 1.1}],
    "Laplace": [{"loc": 0.2, "scale": 0.6}, {"loc": -0.3, "scale": 0.9}],
    "LowRankMultivariateNormal": [
        {"loc": [0.1, 0.2], "cov_factor": [[0.5], [0.2]], "cov_diag": [0.4, 0.6]},
        {"loc": [0.0, -0.2], "cov_factor": [[0.3], [0.6]], "cov_diag": [0.7, 0.9]},
    ],
    "MultivariateNormal": [
        {"loc": [0.1, 0.2], "scale_tril": [[0.8, 0.0], [0.2, 0.5]]},
        {"loc": [-0.1, 0.3], "scale_tril": [[1.1, 0.0], [-0.2, 0.9]]},
    ],
    "Normal": [{"loc": 0.4, "scale": 0.6}, {"loc": -0.2, "scale": 1.2}],
    "OneHotCategorical": [{"probs": [0.2, 0.5, 0.3]}, {"probs": [0.4, 0.4, 0.2]}],
    "Pareto": [{"scale": 1.0, "alpha": 6.0}, {"scale": 0.4, "alpha": 3.0}],
    "Poisson": [{"rate": 2.5}, {"rate": 1.5}],
    "Uniform": [{"low": 0.2, "high": 0.7}, {"low": 0.0, "high": 1.0}],
}


def example(name, which):
    settings = EXAMPLES[name][which]
    if name == "Uniform" and which == 0:
        settings = {"low": 0.6, "high": 0.9}  # inside the support of every p above
    given = {k: v if k == "total_count" else tensor(v, dtype=torch.float64) for k, v in settings.items()}
    return getattr(dist, name)(**given)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_pair_equals_its_sampled_mean(first, second):
    q, p = example(first, 0), example(second, 1)
    exact = closed_form_kl(q, p)
    z = q.sample((100_000,))
    difference = q.log_prob(z) - p.log_prob(z)
    error = difference.std() / 100_000**0.5
    assert abs(float(difference.mean() - exact)) < 5 * float(error) + 1e-9


def test_independent_transformed_and_masked_ones_follow_their_base():
    loc = tensor([[0.3, -0.1], [0.2, 0.5]], dtype=torch.float64)
    q, p = dist.Normal(loc, 0.5), dist.Normal(torch.zeros_like(loc), 1.0)
    each = closed_form_kl(q, p)
    torch.testing.assert_close(closed_form_kl(q.to_event(1), p.to_event(1)), each.sum(-1))
    assert closed_form_kl(q.to_event(1), p) is None
    exp = [transforms.ExpTransform()]
    log_q, log_p = (dist.TransformedDistribution(each, exp) for each in (q, p))
    torch.testing.assert_close(closed_form_kl(log_q, log_p), each)
    torch.testing.assert_close(closed_form_kl(dist.LogNormal(loc, 0.5), dist.LogNormal(loc * 0, 1.0)), each)
    mask = tensor([[True, False], [False, True]])
    torch.testing.assert_close(closed_form_kl(q.mask(mask), p.mask(mask)), each * mask)
    assert closed_form_kl(q.mask(mask), p) is None
    assert closed_form_kl(q, p.mask(mask)) is None
    assert closed_form_kl(q.mask(mask), p.mask(~mask)) is None


class Shifted(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value - 1)


def test_divergences_that_torch_gets_wrong_are_sampled():
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    fold = [dist.FoldedDistribution(dist.Normal(sign * one, 1.0)) for sign in (1, -1)]
    assert closed_form_kl(*fold) is None
    assert closed_form_kl(dist.Uniform(zero, one), dist.ContinuousBernoulli(0.3 * one)) is None
    assert closed_form_kl(dist.ContinuousBernoulli(0.3 * one), dist.Uniform(zero, one)) is None
    assert closed_form_kl(dist.Delta(zero, log_density=one), dist.Normal(zero, one)) is None
    assert closed_form_kl(Shifted(zero, one), dist.Normal(zero, one)) is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_batch_shapes_broadcast(name):
    """A prior that depends on another latent can have more batch dimensions than the guide's distribution."""
    first, second = (
        getattr(dist, name)(**{key: tensor(value) for key, value in setting.items()})
        for setting in EXAMPLES[name]
    )
    expected = closed_form_kl(first, second)
    found = closed_form_kl(first.expand([2]), second.expand([3, 2]))
    torch.testing.assert_close(found, expected.expand(3, 2))
    torch.testing.assert_close(
        closed_form_kl(first.expand([3, 1]), second.expand([2])), expected.expand(3, 2)
    )
