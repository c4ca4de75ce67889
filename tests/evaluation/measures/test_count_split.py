"""Molecular cross-validation against closed forms, on a model whose means are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import count_split, denoised_counts, denoised_logs
from pyro_dvae.evaluation.measures.denoised import log_normalised
from pyro_dvae.networks import GaussianEncoder, PoissonDecoder

F64 = torch.float64


def counts(rows=4, columns=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 9, (rows, columns), generator=generator).to(F64)


def test_the_parts_add_up_and_have_their_shares():
    x = torch.full((400, 50), 20.0, dtype=F64)
    split = count_split(x, 0.3, seed=1)
    assert torch.equal(split.train + split.test, x)
    assert torch.equal(split.train, count_split(x, 0.3, seed=1).train)
    assert not torch.equal(split.train, count_split(x, 0.3, seed=2).train)
    assert float(split.train.min()) >= 0
    check_estimates("share", split.test.flatten() / 20, torch.tensor(0.3, dtype=F64))
    check_estimates("variance", (split.test.flatten() - 6) ** 2, torch.tensor(4.2, dtype=F64))


def test_parts_of_poisson_counts_are_independent():
    torch.manual_seed(0)
    split = count_split(torch.poisson(torch.full((20_000, 1), 5.0, dtype=F64)), 0.4)
    product = (split.train - 3) * (split.test - 2)
    check_estimates("covariance", product, torch.zeros(1, dtype=F64))


def test_errors_equal_their_formulas():
    x = counts()
    split = count_split(x, 0.25, seed=0)
    guess = torch.rand(4, 3, dtype=F64) + 0.1
    found = split.errors(guess)
    for row in range(4):
        total, wanted = float(guess[row].sum()), split.test[row]
        squares = [
            (math.log1p(1e4 * float(g) / total) - math.log1p(1e4 * float(y) / max(1.0, float(wanted.sum()))))
            ** 2
            for g, y in zip(guess[row], wanted, strict=True)
        ]
        assert float(found.squared.per_datum[row]) == pytest.approx(sum(squares) / 3)
        loss = [
            float(g) / 3 - float(y) * math.log(float(g) / 3) for g, y in zip(guess[row], wanted, strict=True)
        ]
        assert float(found.poisson.per_datum[row]) == pytest.approx(sum(loss) / 3)
    assert str(found).startswith("held-out counts: squared error of log-normalised ")
    assert found.to_dict()["poisson"]["mean"] == pytest.approx(found.poisson.mean)


def test_expected_logarithms_are_taken_as_they_are():
    split, logs = count_split(counts(), 0.25), torch.rand(4, 3, dtype=F64)
    found = split.errors(torch.ones(4, 3, dtype=F64), logs)
    expected = (logs - log_normalised(split.test)).square().mean(1)
    torch.testing.assert_close(found.squared.per_datum, expected)
    with pytest.raises(InputError, match=r"^logs: expected shape \(4, 3\), got \(4, 2\)"):
        split.errors(torch.ones(4, 3, dtype=F64), logs[:, :2])


def test_the_true_rates_are_the_best_prediction():
    torch.manual_seed(0)
    rate = torch.rand(500, 20, dtype=F64) * 10
    split = count_split(torch.poisson(rate), 0.2)
    best = split.errors(0.8 * rate)
    for other in (split.train, (0.8 * rate).mean(0).expand(500, 20), 0.7 * rate):
        assert split.errors(other).poisson.mean > best.poisson.mean
    torch.testing.assert_close(split.errors(3 * rate).squared.mean, best.squared.mean)  # no scale


def test_empty_rows_and_impossible_counts_are_finite():
    assert log_normalised(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    split = count_split(counts(), 0.5)
    assert math.isfinite(split.errors(torch.zeros(4, 3, dtype=F64)).poisson.mean)


class Half(nn.Module):
    """z ~ N(0, 1), x ~ Poisson(Σx softmax(z w)) with a guide of scale almost 0 at z = x_1."""

    def __init__(self):
        super().__init__()
        self.w = torch.tensor([0.3, -0.2, 0.1], dtype=F64)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))
            rate = x.sum(-1, keepdim=True) * torch.softmax(z * self.w, -1)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :1], 1e-9).to_event(1))


@pytest.mark.parametrize("batch_size", [None, 3])
def test_denoised_counts_are_the_means_at_the_codes(batch_size):
    pair, x = Half(), counts()
    found = denoised_counts(pair.model, pair.guide, x, num_samples=2, batch_size=batch_size, seed=0)
    expected = x.sum(-1, keepdim=True) * torch.softmax(x[:, :1] * pair.w, -1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_a_ready_made_model_predicts_at_the_depth_of_the_row():
    pair = dv.DVAE(GaussianEncoder(3, 2), PoissonDecoder(3, 2), dv.BinomialThinning(0.2)).double()
    found = denoised_counts(pair.model, pair.guide, counts(), seed=1)
    torch.testing.assert_close(found.sum(-1), counts().sum(-1))


def test_what_cannot_be_split_or_compared_is_refused():
    for bad in (counts() + 0.5, -counts(), counts()[0]):
        with pytest.raises(InputError, match=r"^data: expected counts of shape \[rows, columns\]"):
            count_split(bad)
    for share in (0.0, 1.0, 2.0, math.nan):
        with pytest.raises(InputError, match=r"^share: expected a number"):
            count_split(counts(), share)
    split = count_split(counts())
    with pytest.raises(InputError, match=r"^denoised: expected shape \(4, 3\), got \(4, 2\)"):
        split.errors(torch.ones(4, 2))
    with pytest.raises(InputError, match=r"^denoised: expected values of at least 0, got -1"):
        split.errors(-torch.ones(4, 3))
    pair = Half()
    with pytest.raises(InputError, match=r"^data_site: unknown name 'y'"):
        denoised_counts(pair.model, pair.guide, counts(), data_site="y")


@pytest.mark.parametrize("depth", [1.0, 0.25])
def test_denoised_logs_are_the_expected_logarithms_at_a_depth(depth):
    class Row(nn.Module):
        """x ~ Multinomial(Σx, (½, ½)), so that the expectation is a sum over a binomial."""

        def model(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))
                total = x.sum(-1).round()
                one = pyro.distributions.Binomial(total, torch.full_like(total, 0.5))
                pyro.sample("x", Both(one, total), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))

    class Both(dist.TorchDistribution):
        support, arg_constraints, has_rsample = (
            dist.constraints.independent(dist.constraints.real, 1),
            {},
            False,
        )

        def __init__(self, one, total):
            self.one, self.total = one, total
            super().__init__(total.shape, torch.Size([2]))

        def sample(self, shape=()):
            first = self.one.sample(shape)
            return torch.stack([first, self.total - first], -1)

        def expand(self, shape, _instance=None):
            return Both(self.one.expand(shape), self.total.expand(shape))

        def log_prob(self, value):
            return self.one.log_prob(value[..., 0])

    x = torch.tensor([[4.0, 4.0], [5.0, 11.0]], dtype=F64)
    pair = Row()
    found = denoised_logs(pair.model, pair.guide, x, depth=depth, num_samples=4000, seed=0)
    for row, total in zip(found, (x.sum(1) * depth).int().tolist(), strict=True):
        k = torch.arange(total + 1, dtype=F64)
        weight = dist.Binomial(total, torch.tensor(0.5, dtype=F64)).log_prob(k).exp()
        logs = torch.log1p(1e4 * k / total)
        expected, spread = (weight * logs).sum(), (weight * logs**2).sum() - (weight * logs).sum() ** 2
        assert float((row - expected).abs().max()) < 5 * float(spread / 4000) ** 0.5
