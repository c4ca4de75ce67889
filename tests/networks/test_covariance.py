"""Decoders with a covariance against PyTorch's densities and conditionals written out, row by row."""

import itertools
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_dvae.errors import InputError
from pyro_dvae.networks import FullCovarianceDecoder, LowRankCovarianceDecoder

F64 = torch.float64
D = 4
KINDS = [FullCovarianceDecoder, LowRankCovarianceDecoder]


def spread(size=D, seed=0):
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return root @ root.T + 0.3 * torch.eye(size, dtype=F64)


def made(kind, **options):
    torch.manual_seed(1)
    if kind is LowRankCovarianceDecoder:
        options = {"rank": 2} | options
    return kind(D, 2, (5,), "tanh", **options).double()


def close(found, expected, atol=1e-9):
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_equals_that_of_one_covariance(kind):
    decoder = made(kind, covariance=spread())
    z, x = torch.randn(6, 2, dtype=F64), torch.randn(6, D, dtype=F64)
    loc = decoder.head(decoder.trunk(z))
    close(decoder(z).log_prob(x), MultivariateNormal(loc, decoder.covariance).log_prob(x))
    close(decoder(z).mean, loc)


def test_the_covariance_starts_at_the_given_value():
    decoder = made(FullCovarianceDecoder, covariance=spread(), loc=torch.arange(4.0))
    close(decoder.covariance, spread(), atol=1e-5)  # parameters are made in single precision
    close(decoder.head.bias, torch.arange(4.0, dtype=F64))
    close(made(FullCovarianceDecoder).covariance, torch.eye(D, dtype=F64))


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_rows(kind):
    torch.manual_seed(0)
    rows = torch.randn(50, D, dtype=F64) @ spread() + torch.arange(4.0)
    rows[:, 3] = 2.0
    options = {"rank": D} if kind is LowRankCovarianceDecoder else {}
    decoder = made(kind, **options)
    decoder.start_at(rows, ridge=0.1)
    covariance = rows.T.cov(correction=0)
    close(decoder.covariance, covariance + 0.1 * covariance.diagonal().mean() * torch.eye(D), atol=1e-6)
    close(decoder.head.bias, rows.mean(0), atol=1e-6)
    rows[0, 0] = torch.nan
    decoder.start_at(rows)
    close(decoder.head.bias, rows.nanmean(0), atol=1e-6)
    for few in (rows[1:2], rows[:0], torch.full((3, D), 5.0)):  # without variance
        decoder.start_at(few)
        close(decoder.covariance, 0.01 * torch.eye(D, dtype=F64), atol=1e-6)


def test_low_rank_starts_at_a_covariance_of_its_form():
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=F64)).Q[:, :2]
    wanted = axes @ torch.diag(torch.tensor([9.0, 4.0], dtype=F64)) @ axes.T + 0.5 * torch.eye(6, dtype=F64)
    decoder = LowRankCovarianceDecoder(6, 2, (5,), rank=2, covariance=wanted).double()
    close(decoder.covariance, wanted, atol=1e-5)
    assert (decoder.factors.shape, decoder.rank) == ((6, 2), 2)
    full = LowRankCovarianceDecoder(6, 2, (5,), rank=6, covariance=wanted).double()
    close(full.covariance, wanted, atol=1e-4)


def by_hand(loc, covariance, x):
    """Mean and covariance of the missing cells of one row, and the density of the observed ones."""
    seen = ~torch.isnan(x)
    o, m = seen.nonzero()[:, 0], (~seen).nonzero()[:, 0]
    mean, rest = x.clone(), torch.zeros(D, D, dtype=F64)
    if len(o) == 0:
        return loc, covariance, torch.zeros((), dtype=F64)
    known = covariance[o][:, o]
    gain = torch.linalg.solve(known, covariance[o][:, m]).T
    mean[m] = loc[m] + gain @ (x[o] - loc[o])
    rest[m[:, None], m] = covariance[m][:, m] - gain @ covariance[o][:, m]
    return mean, rest, MultivariateNormal(loc[o], known).log_prob(x[o])


PATTERNS = torch.tensor(list(itertools.product([False, True], repeat=D)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", [(), (3,)])
def test_missing_cells_given_observed_ones_for_every_pattern(kind, leading):
    decoder = made(kind, covariance=spread())
    x = torch.where(PATTERNS, torch.nan, torch.randn(16, D, dtype=F64))
    z = torch.randn(*leading, 16, 2, dtype=F64)
    found = decoder.conditional(z, x)
    loc = decoder.head(decoder.trunk(z))
    assert found.mean.shape == (*leading, 16, D)
    for index in itertools.product(*map(range, leading), range(16)):
        expected = by_hand(loc[index].detach(), decoder.covariance.detach(), x[index[-1]])
        for one, other in zip(found, expected, strict=True):
            close(one[index], other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_pattern_hides_cells(kind):
    decoder, z = made(kind, covariance=spread()), torch.randn(16, 2, dtype=F64)
    x = torch.randn(16, D, dtype=F64)
    for one, other in zip(
        decoder.conditional(z, x, ~PATTERNS),
        decoder.conditional(z, torch.where(PATTERNS, torch.nan, x)),
        strict=True,
    ):
        close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_finite_differences(kind):
    decoder = made(kind, covariance=spread())
    names, values = zip(*decoder.named_parameters(), strict=True)
    z, x = torch.randn(3, 2, dtype=F64), torch.randn(3, D, dtype=F64)
    gaps = torch.where(PATTERNS[[3, 9, 6]], torch.nan, x)

    def both(*parameters):
        named = dict(zip(names, parameters, strict=True))
        whole = torch.func.functional_call(decoder, named, (z,)).log_prob(x)
        for name, value in named.items():  # conditional() is no forward pass
            owner, _, leaf = name.rpartition(".")
            decoder.get_submodule(owner)._parameters[leaf] = value
        found = decoder.conditional(z, gaps)
        return whole, torch.nan_to_num(found.mean), found.covariance, found.log_prob

    assert torch.autograd.gradcheck(both, values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_known_covariance_is_found(kind):
    torch.manual_seed(0)
    axes = torch.randn(D, 2, dtype=F64)
    wanted = axes @ axes.T + torch.diag(torch.tensor([0.2, 0.5, 0.3, 0.4], dtype=F64))
    x = MultivariateNormal(torch.zeros(D, dtype=F64), wanted).sample((4000,))
    decoder, z = made(kind), torch.zeros(1, 2, dtype=F64)
    optimiser = torch.optim.Adam(decoder.parameters(), 0.03)
    for _ in range(400):
        optimiser.zero_grad()
        (-decoder(z).log_prob(x).mean()).backward()
        optimiser.step()
    close(decoder.covariance, x.T.cov(correction=0), atol=0.05)


def test_steps_from_a_covariance_of_unequal_scales_climb():
    """If the elements of L are the parameters, the first steps lose thousands of nats: some are 0.001."""
    torch.manual_seed(0)
    size, z = 30, torch.zeros(1, 2, dtype=F64)
    axes = torch.linalg.qr(torch.randn(size, size, dtype=F64)).Q
    x = torch.randn(500, size, dtype=F64) @ (axes * torch.logspace(-3, 0, size, dtype=F64)).mT
    covariance = x.T.cov(correction=0)
    decoder = FullCovarianceDecoder(size, 2, (5,), covariance=1.2 * covariance).double()
    for parameter in decoder.head.parameters():
        torch.nn.init.zeros_(parameter)
    optimiser, found = torch.optim.Adam([decoder.log_diagonal, decoder.below], 1e-3), []
    for _ in range(300):
        optimiser.zero_grad()
        loss = -decoder(z).log_prob(x - x.mean(0)).mean()
        loss.backward()
        optimiser.step()
        found.append(-float(loss.detach()))
    largest = MultivariateNormal(torch.zeros(size, dtype=F64), covariance).log_prob(x - x.mean(0)).mean()
    assert all(later > earlier for earlier, later in pairwise(found[:20]))
    assert float(largest) - 0.02 < found[-1] < float(largest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (torch.eye(3), r"expected shape \(4, 4\), got \(3, 3\)"),
        (-torch.eye(4), "expected a positive definite matrix; add a ridge"),
        (torch.triu(torch.ones(4, 4)), "expected a symmetric matrix"),
        (torch.full((4, 4), torch.nan), "expected finite values"),
        ([[1.0]], "expected a tensor"),
    ],
)
def test_what_is_no_covariance_is_refused(kind, covariance, message):
    with pytest.raises(InputError, match=f"^covariance: {message}"):
        kind(4, 2, rank=2, covariance=covariance) if kind is LowRankCovarianceDecoder else kind(
            4, 2, covariance=covariance
        )


def test_more_factors_than_columns_are_refused():
    with pytest.raises(InputError, match=r"^rank: expected a whole number of at most 4, got 5"):
        LowRankCovarianceDecoder(4, 2, rank=5)
