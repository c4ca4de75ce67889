"""Random programs: a bound gives the right value, or the program is refused."""

import pytest
import torch
from program_check import outcome, survey
from program_likelihood import likelihood_outcome

STEP, LIKELIHOODS = 20, 60


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)


STARTS = [
    start if start < 60 else pytest.param(start, marks=pytest.mark.slow) for start in range(0, 200, STEP)
]


@pytest.mark.parametrize("start", STARTS)
def test_every_bound_of_a_random_program_is_right_or_refused(start):
    counts, wrong = survey(range(start, start + STEP))
    assert not wrong
    assert counts["checks"]["value"] >= STEP // 4
    assert counts["checks"]["expectation"] >= STEP // 5


def test_the_likelihood_of_a_random_program_is_right_or_refused():
    counts, wrong = survey(range(LIKELIHOODS), likelihood_outcome)
    assert not wrong
    assert counts["checks"]["likelihood"] >= LIKELIHOODS // 4


@pytest.mark.parametrize("seed", [4862, 5320, 5529, 6435, 13901, 17248])
def test_programs_that_once_differed(seed):
    _, wrong = survey([seed])
    assert not wrong


@pytest.mark.parametrize("seed", [171, 2989, 4561])
def test_likelihoods_that_once_differed(seed):
    _, wrong = survey([seed], likelihood_outcome)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("run", [outcome, likelihood_outcome])
def test_ten_thousand_programs(run):
    _, wrong = survey(range(10_000), run)
    assert not wrong
