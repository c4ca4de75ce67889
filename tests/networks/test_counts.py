"""Decoders of counts against scipy, sums to one, finite differences and known parameters."""

import math

import numpy as np
import pyro
import pytest
import torch
from exact import check_estimates
from pyro import poutine
from scipy import stats

import pyro_dvae as dv
from pyro_dvae.distributions.counts import DirichletMultinomial, GivenTotal, Multinomial
from pyro_dvae.errors import InputError
from pyro_dvae.networks import (
    CountEncoder,
    DirichletMultinomialDecoder,
    GaussianEncoder,
    MultinomialDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
)

F64 = torch.float64
DECODERS = [PoissonDecoder, NegativeBinomialDecoder, MultinomialDecoder, DirichletMultinomialDecoder]
X = torch.tensor([[0, 3, 1, 0], [5, 0, 0, 7], [1, 1, 1, 1]], dtype=F64)
TOTAL = X.sum(-1, keepdim=True)


def made(kind, **options):
    torch.manual_seed(3)
    return kind(4, 2, (5,), "tanh", **options).double()


def shares(decoder, z):
    return torch.softmax(decoder.head(decoder.trunk(z)), -1).detach().numpy()


Z = torch.tensor([[0.3, -1.0], [1.2, 0.4], [-0.5, 0.8]], dtype=F64)


def same(found, expected):
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_poisson_counts():
    decoder = made(PoissonDecoder)
    rate = TOTAL.numpy() * shares(decoder, Z)
    same(decoder(Z, TOTAL).log_prob(X), stats.poisson.logpmf(X.numpy(), rate).sum(-1))
    same(decoder(Z, TOTAL).mean, rate)


def test_negative_binomial_counts():
    decoder = made(NegativeBinomialDecoder)
    torch.nn.init.normal_(decoder.unconstrained_dispersion)
    mean, r = TOTAL.numpy() * shares(decoder, Z), 1 / decoder.dispersion.detach().numpy()
    same(decoder(Z, TOTAL).log_prob(X), stats.nbinom.logpmf(X.numpy(), r, r / (r + mean)).sum(-1))
    same(decoder(Z, TOTAL).mean, mean)
    same(decoder(Z, TOTAL).variance, mean + mean**2 / r)


@pytest.mark.parametrize("kind", [PoissonDecoder, NegativeBinomialDecoder])
def test_extra_zeros(kind):
    decoder = made(kind, zero_inflated=True)
    gate = decoder.gate_head(decoder.trunk(Z)).sigmoid()
    columns = decoder.columns(decoder.log_rate(decoder.trunk(Z), TOTAL))
    mass = (1 - gate) * columns.log_prob(X).exp() + gate * (X == 0)
    same(decoder(Z, TOTAL).log_prob(X), mass.log().sum(-1).detach())
    same(decoder(Z, TOTAL).mean, ((1 - gate) * columns.mean).detach())


def test_multinomial_counts_with_another_total_in_each_row():
    decoder = made(MultinomialDecoder)
    expected = [
        stats.multinomial.logpmf(x, int(x.sum()), p)
        for x, p in zip(X.numpy(), shares(decoder, Z), strict=True)
    ]
    same(decoder(Z, TOTAL).log_prob(X), np.array(expected))
    same(decoder(Z).log_prob(X), np.array(expected))
    assert decoder(Z, TOTAL + 1).log_prob(X).tolist() == [-math.inf] * 3


def test_dirichlet_multinomial_counts():
    decoder = made(DirichletMultinomialDecoder)
    alpha = shares(decoder, Z) / float(decoder.spread.detach())
    expected = [
        stats.dirichlet_multinomial.logpmf(x, a, int(x.sum())) for x, a in zip(X.numpy(), alpha, strict=True)
    ]
    same(decoder(Z, TOTAL).log_prob(X), np.array(expected))
    same(decoder(Z).log_prob(X), np.array(expected))


def compositions(total, parts):
    if parts == 1:
        return [[total]]
    return [[first, *rest] for first in range(total + 1) for rest in compositions(total - first, parts - 1)]


@pytest.mark.parametrize("kind", [MultinomialDecoder, DirichletMultinomialDecoder])
@pytest.mark.parametrize("total", [0, 1, 5])
def test_probabilities_given_the_total_sum_to_one(kind, total):
    counts = torch.tensor(compositions(total, 4), dtype=F64)
    fn = made(kind)(Z[0])
    torch.testing.assert_close(fn.log_prob(counts).exp().sum().detach(), torch.tensor(1.0, dtype=F64))
    typical = fn.make(torch.tensor([float(total)], dtype=F64))
    mass = typical.log_prob(counts).exp().unsqueeze(-1)
    same((mass * counts).sum(0), typical.mean.detach())
    same((mass * (counts - typical.mean) ** 2).sum(0), typical.variance.detach())


@pytest.mark.parametrize("kind", [PoissonDecoder, NegativeBinomialDecoder])
@pytest.mark.parametrize("inflated", [False, True])
def test_probabilities_of_a_column_sum_to_one(kind, inflated):
    decoder = made(kind, zero_inflated=inflated)
    columns = decoder(Z[0], torch.tensor([6.0], dtype=F64)).base_dist
    counts = torch.arange(400, dtype=F64)[:, None].expand(-1, 4)
    same(columns.log_prob(counts).exp().sum(0), torch.ones(4, dtype=F64))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_row_is_scored_by_its_own_total(kind):
    decoder = made(kind, typical_total=9.0)
    fn = decoder(Z)
    assert isinstance(fn, GivenTotal)
    same(fn.log_prob(X), decoder(Z, TOTAL).log_prob(X).detach())
    same(fn.expand([2, 3]).log_prob(X), decoder(Z, TOTAL).log_prob(X).expand(2, 3).detach())
    same(fn.mean.sum(-1), torch.full((3,), 9.0, dtype=F64))
    assert fn.sample((2,)).shape == (2, 3, 4)
    assert fn.support.check(X).all()


@pytest.mark.parametrize("kind", [PoissonDecoder, NegativeBinomialDecoder])
def test_a_latent_library_size(kind):
    decoder = made(kind, library="latent", typical_total=50.0)
    with torch.no_grad():
        decoder.library_head.weight.zero_()
    fifty = torch.full((3,), 50.0, dtype=F64)
    torch.testing.assert_close(decoder(Z).mean.sum(-1), fifty, rtol=1e-6, atol=0)  # a bias in float32
    with pytest.raises(InputError, match=r"^total: expected none, because library='latent'"):
        decoder(Z, TOTAL)


@pytest.mark.parametrize("kind", DECODERS)
def test_totals_of_another_shape_are_refused(kind):
    with pytest.raises(InputError, match=r"^total: expected a last dimension of 1 \(the row's total\)"):
        made(kind)(Z, X)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("empty", [False, True])
def test_gradients_match_finite_differences(kind, empty):
    decoder = made(kind)
    names, values = zip(*decoder.named_parameters(), strict=True)
    rows = torch.zeros_like(X) if empty else X

    def log_likelihood(*parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(decoder, named, (Z,)).log_prob(rows)

    assert torch.autograd.gradcheck(log_likelihood, values)


@pytest.mark.parametrize("kind", DECODERS)
def test_single_precision_of_large_and_of_empty_rows(kind):
    decoder = kind(4, 2, (5,))
    rows = torch.tensor([[0.0] * 4, [0, 1, 0, 0], [3e4, 0, 1e4, 0]])
    z = torch.zeros(3, 2)
    found = decoder(z).log_prob(rows)
    exact = decoder.double()(z.double()).log_prob(rows.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("kind", DECODERS)
def test_shares_that_round_to_zero_keep_the_loss_finite(kind):
    decoder = kind(4, 2, (5,))
    with torch.no_grad():
        decoder.head.bias.copy_(torch.tensor([0.0, -500.0, 0.0, 0.0]))
    loss = -decoder(torch.zeros(1, 2)).log_prob(torch.tensor([[3.0, 2.0, 0.0, 1.0]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in decoder.parameters())


def test_the_encoder_sees_logarithms():
    torch.manual_seed(0)
    encoder, plain = CountEncoder(4, 2), GaussianEncoder(4, 2)
    plain.load_state_dict(encoder.state_dict())
    for one, other in zip(encoder(X.float()), plain(X.float().log1p()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [Multinomial, DirichletMultinomial])
def test_draws_of_different_totals(kind):
    torch.manual_seed(0)
    weights = torch.tensor([[0.5, 2.0, 1.0], [3.0, 0.1, 0.4]], dtype=F64)
    total = torch.tensor([4.0, 11.0], dtype=F64)
    fn = kind(weights.log() if kind is Multinomial else weights, total)
    draws = fn.sample((20_000,))
    assert torch.equal(draws.sum(-1), total.expand(20_000, 2))
    check_estimates("mean", draws, fn.mean)
    check_estimates("variance", (draws - fn.mean) ** 2, fn.variance)
    assert fn.expand([5, 2]).sample().shape == (5, 2, 3)
    same(fn.expand([5, 2]).log_prob(draws[:5]), fn.log_prob(draws[:5]))


def test_the_ready_made_model_tells_the_decoder_the_totals():
    """The mean at the site then has the row's depth, as a reconstruction needs."""
    pair = dv.DVAE(GaussianEncoder(4, 2, (5,)), PoissonDecoder(4, 2, (5,)), dv.BinomialThinning(0.2)).double()
    fn = poutine.trace(pair.model).get_trace(X).nodes["x"]["fn"]
    same(fn.mean.sum(-1), TOTAL.squeeze(-1))
    same(pair.decode(Z, TOTAL).sum(-1), TOTAL.squeeze(-1))
    same(pair.decode(Z).sum(-1), torch.full((3,), 4.0, dtype=F64))


@pytest.mark.parametrize("kind", [NegativeBinomialDecoder, DirichletMultinomialDecoder])
def test_the_known_dispersion_is_found(kind):
    """With two clusters of rows of known shares, dispersion or spread is estimated by maximum likelihood."""
    pyro.set_rng_seed(1)
    generator = np.random.default_rng(0)
    cluster = generator.integers(0, 2, 2000)
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])[cluster]
    depth = generator.integers(30, 200, 2000)[:, None]
    if kind is NegativeBinomialDecoder:
        rows = generator.negative_binomial(4, 4 / (4 + depth * p))
    else:
        rows = generator.multinomial(depth[:, 0], np.array([generator.dirichlet(each / 0.05) for each in p]))
    rows = torch.as_tensor(rows, dtype=F64)
    z = torch.nn.functional.one_hot(torch.as_tensor(cluster), 2).to(F64)
    total = torch.as_tensor(depth, dtype=F64) if kind is NegativeBinomialDecoder else None
    decoder = kind(4, 2, (8,), "tanh").double()
    optimiser = torch.optim.Adam(decoder.parameters(), 0.03)
    for _ in range(300):
        optimiser.zero_grad()
        loss = -decoder(z, total).log_prob(rows).mean()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(shares(decoder, z[:20]), p[:20], atol=0.02)
    found = decoder.dispersion if kind is NegativeBinomialDecoder else decoder.spread
    expected = torch.full_like(found, 0.25 if kind is NegativeBinomialDecoder else 0.05)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=0.15, atol=0)
