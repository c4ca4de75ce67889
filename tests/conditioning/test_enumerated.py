"""Rows with gaps under discrete latents, against sums over all latents and all cells."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dvae as dv
from pyro_dvae.errors import InputError

WEIGHT = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
FLIP = torch.tensor([0.2, 0.9, 0.6], dtype=torch.float64)  # p(y = 1 | z)
RATE = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # of x | z, y


def mixture(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(WEIGHT))
        y = pyro.sample("y", dist.Bernoulli(FLIP[z]))
        pyro.sample("x", dist.Bernoulli(RATE[z, y.long()]).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(len(x), 3, dtype=torch.float64) / 3))
        pyro.sample("y", dist.Bernoulli(0.5 + 0.0 * z.double()))


def joint():
    """p(x) of every row of zeros and ones, by the sum over the latents."""
    cells = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    given = dist.Bernoulli(RATE[:, :, None]).to_event(1).log_prob(cells).exp()  # [3, 2, 16]
    latent = torch.stack([WEIGHT * (1 - FLIP), WEIGHT * FLIP], 1)
    return cells, (latent[..., None] * given).sum((0, 1))


def test_every_pattern_of_gaps_is_exact():
    cells, p = joint()
    gaps = torch.tensor(list(itertools.product([False, True], repeat=4)))
    x = cells.repeat_interleave(16, 0).masked_fill(gaps.repeat(16, 1), math.nan)
    found = dv.condition(mixture, guide, x, num_draws=4000, seed=0)
    for row, (log_p, mean, draws) in enumerate(
        zip(found.log_likelihood, found.mean, found.draws.transpose(0, 1), strict=True)
    ):
        seen = ~x[row].isnan()
        agree = (cells[:, seen] == x[row, seen]).all(1)
        assert float(log_p) == pytest.approx(float(p[agree].sum().log()), abs=1e-12)
        wanted = (p[agree, None] * cells[agree]).sum(0) / p[agree].sum()
        torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-12)
        # The draws are of whole rows: the chance of the complement of the observed row, too.
        error = (wanted * (1 - wanted) / 4000).sqrt()
        assert bool(((draws.mean(0) - wanted).abs() <= 4.8 * error).all())
        last = draws[:, ~seen].all(1).double().mean()
        share = (p * agree * cells[:, ~seen].bool().all(1)).sum() / p[agree].sum()
        assert abs(float(last - share)) <= 4.8 * math.sqrt(float(share * (1 - share)) / 4000) + 1e-12
    assert bool(found.reliable.all())
    assert bool((found.standard_error == 0).all())
    assert "a sum over 6 values of the latents" in str(found)
    assert found.to_dict()["refined"] is None


def test_small_parts_of_the_rows_and_a_seed_give_the_same_values():
    x = torch.tensor([[1.0, math.nan, 0.0, math.nan]] * 50, dtype=torch.float64)
    whole = dv.condition(mixture, guide, x, num_draws=20, seed=3)
    again = dv.condition(mixture, guide, x, num_draws=20, seed=3)
    parts = dv.condition(mixture, guide, x, num_draws=20, seed=3, memory=20_000)
    assert torch.equal(whole.draws, again.draws)
    torch.testing.assert_close(parts.log_likelihood, whole.log_likelihood, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        dv.predict(mixture, guide, x, columns=[1], seed=0).mean[:, 0], whole.mean[:, 1], rtol=0, atol=1e-12
    )


def vector(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2, dtype=torch.float64)).to_event(1))
        pyro.sample("x", dist.Bernoulli(RATE[z[..., 0].long(), z[..., 1].long()]).to_event(1), obs=x)


def endless(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Poisson(torch.tensor(2.0, dtype=torch.float64)))
        pyro.sample("x", dist.Bernoulli(logits=z[..., None] * torch.ones(4)).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (vector, "the values of the discrete latent 'z' cannot be listed: it is a vector"),
        (endless, "the values of the discrete latent 'z' cannot be listed"),
    ],
)
def test_what_cannot_be_summed_over_is_refused(model, message):
    x = torch.tensor([[1.0, math.nan, 0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(InputError, match=message):
        dv.condition(model, model, x)


def test_a_row_that_no_value_of_the_latents_explains_is_marked():
    def normal(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(WEIGHT))
            pyro.sample("x", dist.Normal(FLIP[z].unsqueeze(-1).expand(*z.shape, 2), 0.1).to_event(1), obs=x)

    def of_z(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(torch.ones(len(x), 3, dtype=torch.float64) / 3))

    x = torch.tensor([[0.2, math.nan], [1e200, math.nan]], dtype=torch.float64)
    found = dv.condition(normal, of_z, x, num_draws=4, seed=0, progress=False)
    assert found.reliable.tolist() == [True, False]
    weight = WEIGHT * dist.Normal(FLIP, 0.1).log_prob(x[0, 0]).exp()
    assert float(found.mean[0, 1]) == pytest.approx(float(weight @ FLIP / weight.sum()))
    assert bool(found.draws.isfinite().all())


def test_rows_of_a_single_number():
    means = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(means[pyro.sample("z", dist.Categorical(WEIGHT))], 1.0), obs=x)

    def without(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(torch.ones(len(x), 3, dtype=torch.float64) / 3))

    rows = torch.tensor([0.5, math.nan], dtype=torch.float64)
    found = dv.condition(model, without, rows, seed=0)
    density = dist.Normal(means, 1.0).log_prob(rows[0]).exp() @ WEIGHT
    torch.testing.assert_close(found.log_likelihood, torch.stack([density.log(), density.new_zeros(())]))
    torch.testing.assert_close(found.mean[1], means @ WEIGHT)
