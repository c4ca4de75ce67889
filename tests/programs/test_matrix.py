"""Every kind of program under every bound and estimator: the right value, or an error that names a remedy."""

import re

import matrix
import pytest
import torch
from features import FEATURES
from pyro import poutine

import pyro_dvae as dv

REMEDIES = re.compile(
    r"\b(use|remove|sample|give|mark|call|declare|condition|mend|set)\b"  # what a refusal asks the user to do
)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def words(name):
    """Return what a refusal may name: the sites and plates of a program, and the arguments of a bound."""
    model, guide, args = FEATURES[name].build()
    found = {"gradient", "vectorize_particles", "num_mixture", "combine"}
    for program in (model, guide):
        found |= set(poutine.trace(program).get_trace(*args).nodes)
    return found


def check_error(name, found, where):
    """Assert that a cell ends in a refusal that names its cause and a remedy, or in the error of stock."""
    error, stock = found.error, matrix.stock(name).error
    if not isinstance(error, dv.InputError):
        assert type(error) is type(stock), (where, error)
        return
    message = str(error)
    assert "\n" not in message, where
    assert re.match(r"(model|guide|model, guide|infer|gradient|combine): ", message), (where, message)
    assert any(word in message for word in words(name)), (where, message)
    assert REMEDIES.search(message), (where, message)


def check_numbers(name, bound, found, draws, where):
    """Assert stock's value where there is a single draw, and a gradient wherever stock has one."""
    stock = matrix.stock(name)
    assert torch.isfinite(torch.tensor(found.loss)), where
    if stock.error is not None:
        return
    # L_J draws the guide's noise anew for each component: masks of dropout as well as corruptions.
    redrawn = bound == "L_J" and (FEATURES[name].group == "Corruptions" or "dropout" in name)
    if draws == (1, 1) and bound != "closed form" and not redrawn:
        assert found.loss == pytest.approx(stock.loss, rel=1e-9, abs=1e-9), where
    for parameter, gradient in stock.gradients.items():
        if gradient is not None and float(gradient.abs().max()) > 1e-9:
            assert found.gradients[parameter] is not None, (where, parameter)


# The largest groups take five to ten seconds each.
LARGE = (
    "Guides that Pyro makes",
    "Plates",
    "Scales, masks and factors",
    "Latents",
    "Modules and handlers",
)
GROUPS = [pytest.param(each, marks=pytest.mark.slow if each in LARGE else ()) for each in matrix.groups()]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_programs(group):
    """Every cell of a group is right or refused, as the page says."""
    for name, feature in FEATURES.items():
        if feature.group != group:
            continue
        for bound in matrix.BOUNDS:
            for draws, vectorised in [*((draws, True) for draws in matrix.DRAWS), ((2, 2), False)]:
                found = matrix.outcome(name, bound, *draws, vectorised)
                where = (name, bound, draws, vectorised)
                if found.error is None:
                    check_numbers(name, bound, found, draws, where)
                else:
                    check_error(name, found, where)
    assert matrix.section(group) in matrix.written(), "PYTHONPATH=tests python tests/programs/matrix.py"


def test_the_page_shows_what_check_shows():
    assert matrix.example() == matrix.written(matrix.CHECK), (
        "PYTHONPATH=tests python tests/programs/matrix.py"
    )


def test_the_page_has_all_groups_and_programs_and_no_others():
    written = matrix.written()
    assert re.findall(r"^### (.*)$", written, re.M) == matrix.groups()
    rows = re.findall(r"^\| ([^|]+) \|", written, re.M)
    assert [row for row in rows if row.strip()] == list(FEATURES)
