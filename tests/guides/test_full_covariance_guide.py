import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv

F64 = torch.float64


def guide_of(latent_size, feature_size=3, corruption=None):
    torch.manual_seed(1)
    return dv.FullCovarianceGuide(nn.Identity(), feature_size, latent_size, corruption).double()


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_matrix_is_filled_row_by_row(d):
    guide = guide_of(d)
    features = torch.randn(5, 3, dtype=F64)
    if d > 1:
        nn.init.normal_(guide.covariance_head.weight)
    found = guide.posterior(features)
    outputs = guide.head(features)
    torch.testing.assert_close(found.mean, outputs[:, :d])
    below = guide.covariance_head(features) if d > 1 else None
    for n in range(5):
        factor, count = torch.zeros(d, d, dtype=F64), 0
        for row in range(d):
            factor[row, row] = math.exp(0.5 * float(outputs[n, d + row].detach()))
            for column in range(row):
                factor[row, column] = below[n, count].detach() / d
                count += 1
        torch.testing.assert_close(found.covariance_matrix[n].detach(), factor @ factor.T)


def test_it_starts_as_the_diagonal_gaussian():
    guide, x = guide_of(3), torch.randn(5, 3, dtype=F64)
    loc, log_variance = guide.head(x).chunk(2, -1)
    posterior = guide.posterior(x)
    torch.testing.assert_close(posterior.covariance_matrix, torch.diag_embed(log_variance.exp()))
    z = posterior.sample((4,))
    expected = dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1).log_prob(z)
    torch.testing.assert_close(posterior.log_prob(z), expected)


@pytest.mark.parametrize("d", [2, 3])
def test_the_exact_posterior_of_a_linear_model_closes_the_bound(d):
    """p(z|x) = N(m(x), S) with S dense: every single draw then gives log p(x) itself."""
    generator = torch.Generator().manual_seed(d)
    weight = torch.randn(3, d, generator=generator, dtype=F64)
    x, noise = torch.randn(4, 3, generator=generator, dtype=F64), 0.7

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(d, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, noise).to_event(1), obs=x)

    covariance = torch.linalg.inv(torch.eye(d, dtype=F64) + weight.T @ weight / noise**2)
    factor = torch.linalg.cholesky(covariance)
    guide = guide_of(d)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.zero_()
        guide.head.weight[:d] = covariance @ weight.T / noise**2
        guide.head.bias[d:] = 2 * factor.diagonal().log()
        rows, columns = torch.tril_indices(d, d, -1)
        guide.covariance_head.bias.copy_(d * factor[rows, columns])
    total = weight @ weight.T + noise**2 * torch.eye(3, dtype=F64)
    expected = dist.MultivariateNormal(torch.zeros(3, dtype=F64), total).log_prob(x)
    for m, k in ((1, 1), (2, 3)):
        found = dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, max_plate_nesting=1).per_datum(
            model, guide, x
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_bad_sizes_are_refused():
    with pytest.raises(dv.InputError, match=r"^feature_size: expected a whole number"):
        dv.FullCovarianceGuide(nn.Identity(), 0, 2)
    with pytest.raises(dv.InputError, match=r"^encoder: expected a torch.nn.Module"):
        dv.FullCovarianceGuide(torch.tanh, 3, 2)
