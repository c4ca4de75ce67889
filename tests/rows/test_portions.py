"""Rows in parts: together they give what one process computes, bit for bit."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dvae as dv
from pyro_dvae.rows.data import portion, share

DATA = torch.linspace(-2, 2, 53, dtype=torch.float64)[:, None] * torch.tensor(
    [1.0, -0.5], dtype=torch.float64
)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x, 0.5).to_event(1))


@pytest.mark.parametrize("options", [{}, {"keep_log_weight": True}, {"refine": 5}, {"memory": 200_000}])
@pytest.mark.parametrize("parts", [1, 3, 20])
def test_the_likelihoods_of_parts_equal_those_of_the_whole(options, parts):
    settings = {"num_samples": 200, "seed": 3, "compile": False, **options}
    whole = dv.log_likelihood(model, guide, DATA, **settings)
    found = [dv.log_likelihood(model, guide, DATA, part=(k, parts), **settings) for k in range(parts)]
    joined = dv.LogLikelihood.joined(found)
    assert len(joined) == len(DATA)
    for name, values in whole.per_datum().items():
        assert torch.equal(getattr(joined, name).nan_to_num(7.0), values.nan_to_num(7.0)), name
    assert torch.equal(joined.bound_by_samples[1], whole.bound_by_samples[1])
    assert (joined.log_weight is None) == (whole.log_weight is None)
    if whole.log_weight is not None:
        assert torch.equal(joined.log_weight, whole.log_weight)
    if whole.refined is not None:
        assert joined.refined.counts == whole.refined.counts
    shuffled = dv.LogLikelihood.joined(found[::-1])
    assert torch.equal(shuffled.log_likelihood, whole.log_likelihood)
    other = dv.log_likelihood(model, guide, DATA, part=(0, 2), **{**settings, "seed": 4})
    with pytest.raises(dv.InputError, match="of one evaluation, got seed 4 and 3"):
        dv.LogLikelihood.joined([other, dv.log_likelihood(model, guide, DATA, part=(1, 2), **settings)])
    for wrong in ([], [whole], found[1:] or [whole], [*found, found[0]]):
        with pytest.raises(dv.InputError, match=r"parts: expected each part \(k, n\) of one evaluation once"):
            dv.LogLikelihood.joined(wrong)


def test_each_part_has_its_own_checkpoint(tmp_path):
    settings = {"num_samples": 100, "seed": 3, "checkpoint": tmp_path / "a.safetensors"}
    part = dv.log_likelihood(model, guide, DATA, part=(1, 3), **settings)
    again = dv.log_likelihood(model, guide, DATA, part=(1, 3), **settings)
    assert torch.equal(part.log_likelihood, again.log_likelihood)
    with pytest.raises(dv.CheckpointError, match=r"part was \[1, 3\], is now \[2, 3\]"):
        dv.log_likelihood(model, guide, DATA, part=(2, 3), **settings)


def test_the_conditions_of_parts_equal_those_of_the_whole():
    rows = DATA.repeat(20, 1)
    rows[::2, 0] = math.nan
    settings = {"num_samples": 50, "num_draws": 5, "seed": 3, "refine": False, "compile": False}
    whole = dv.condition(model, guide, rows, **settings)
    found = [dv.condition(model, guide, rows, part=(k, 2), **settings) for k in range(2)]
    assert sum(map(len, found)) == len(rows)
    for name in ("mean", "log_likelihood", "pareto_k", "data"):
        joined = torch.cat([getattr(each, name) for each in found])
        assert torch.equal(joined.nan_to_num(7.0), getattr(whole, name).nan_to_num(7.0)), name
    assert torch.equal(torch.cat([each.draws for each in found], 1), whole.draws)
    with pytest.raises(dv.InputError, match="part: expected at most 3 parts, of 500 rows each, got 4"):
        dv.condition(model, guide, rows, part=(0, 4), **settings)
    with pytest.raises(dv.InputError, match="at most 1 part, "):
        dv.condition(model, guide, rows[:40], part=(0, 4), **settings)


@pytest.mark.parametrize("value", [(3, 3), (-1, 3), (0, 0), 1, (0, 1, 2), (0.5, 2)])
def test_a_bad_part_is_refused(value):
    with pytest.raises(dv.InputError, match="part: expected"):
        portion("part", value)


def test_shares_cover_all_rows_once():
    for rows in (0, 1, 7, 12):
        for parts in (1, 3, 9):
            shares = [list(range(rows)[share(rows, k, parts)]) for k in range(parts)]
            assert [row for one in shares for row in one] == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
