"""Programs drawn at random: what a bound gives is right, or the program is refused."""

import pytest
import torch
from program_check import survey
from program_likelihood import likelihood_outcome

STEP, LIKELIHOODS = 20, 60


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("start", range(0, 200, STEP))
def test_every_bound_of_a_random_program_is_right_or_refused(start):
    counts, wrong = survey(range(start, start + STEP))
    assert not wrong
    assert counts["checks"]["value"] >= STEP // 4
    assert counts["checks"]["expectation"] >= STEP // 5


def test_the_likelihood_of_a_random_program_is_right_or_refused():
    counts, wrong = survey(range(LIKELIHOODS), likelihood_outcome)
    assert not wrong
    assert counts["checks"]["likelihood"] >= LIKELIHOODS // 4


@pytest.mark.slow
def test_ten_thousand_programs():
    counts, wrong = survey(range(10_000))
    for name, counter in counts.items():
        print(name, *counter.most_common(), sep="\n  ")
    assert not wrong
