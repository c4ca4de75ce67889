import math

import pytest
import torch

from pyro_dvae.datasets import Dataset, binarisation, binarisation_names, binarise_dataset
from pyro_dvae.errors import InputError

GREY = torch.rand(400, 25, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def dataset():
    same = GREY.clone()  # equal in every part, so that equal draws would be seen
    return Dataset("grey", same, same, same, None, None, None, (5, 5), False, "drawn here")


def within_5_standard_errors(draws, probabilities):
    """Compare the total of independent Bernoulli draws with its mean and variance."""
    error = (probabilities * (1 - probabilities)).sum().sqrt()
    return abs(float(draws.sum() - probabilities.sum())) < 5 * float(error)


def test_the_names():
    assert binarisation_names() == ("dynamic", "none", "static", "threshold")
    assert [binarisation(name).name for name in binarisation_names()] == list(binarisation_names())
    with pytest.raises(InputError, match="did you mean 'static'"):
        binarisation("statik")


@pytest.mark.parametrize("name", binarisation_names())
def test_prepare_depends_on_the_seed_alone_and_leaves_the_global_generator(name):
    way = binarisation(name)
    torch.manual_seed(0)
    first = way.prepare(GREY, 3)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(way.prepare(GREY, 3), first)
    assert torch.equal(way.prepare_evaluation(GREY, 3), way.prepare_evaluation(GREY, 3))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", binarisation_names())
def test_the_model_sees_the_default_floating_type(name):
    way = binarisation(name)
    kept = way.prepare(GREY, 0)
    assert kept.dtype == (torch.uint8 if name in ("static", "threshold") else torch.float32)
    assert way.visit(kept).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert way.visit(kept).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", binarisation_names())
@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_values_outside_the_unit_interval_are_refused(name, value):
    if name == "none" and not math.isnan(value):
        assert binarisation(name).prepare(torch.tensor([[0.5, value]]), 0)[0, 1] == pytest.approx(value)
        return
    with pytest.raises(InputError, match="data: expected"):
        binarisation(name).prepare(torch.tensor([[0.5, value]]), 0)


def test_a_bad_seed_is_refused(dataset):
    with pytest.raises(InputError, match="seed: expected a whole number"):
        binarisation("static").prepare(GREY, -1)
    with pytest.raises(InputError, match="seed: expected a whole number"):
        binarise_dataset(dataset, "none", 1.5)


def test_static_draws_are_bernoulli_and_stay():
    way = binarisation("static")
    kept = way.prepare(GREY, 0)
    assert set(kept.unique().tolist()) == {0, 1}
    assert within_5_standard_errors(kept, GREY)
    # Also pixel by pixel: bright ones are on more often than dark ones, by the right amount.
    bright = GREY > 0.8
    assert within_5_standard_errors(kept[bright], GREY[bright])
    assert torch.equal(way.visit(kept), kept.float())
    assert torch.equal(way.visit(kept), way.visit(kept))
    assert not torch.equal(way.prepare(GREY, 1), kept)


def test_static_leaves_binary_data_as_it_is():
    binary = (GREY > 0.5).float()
    assert torch.equal(binarisation("static").prepare(binary, 5).float(), binary)


def test_dynamic_draws_afresh_from_the_global_generator():
    way = binarisation("dynamic")
    kept = way.prepare(GREY, 0)
    assert torch.equal(kept, GREY)
    torch.manual_seed(0)
    first, second = way.visit(kept), way.visit(kept)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(way.visit(kept), first)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    visits = torch.stack([way.visit(kept) for _ in range(50)])
    assert within_5_standard_errors(visits, GREY.expand(50, -1, -1))
    # Independent between visits: two draws are both on with probability p squared.
    assert within_5_standard_errors(first * second, GREY**2)


def test_threshold_is_above_a_half():
    way = binarisation("threshold")
    kept = way.prepare(torch.tensor([[0.0, 0.5, 0.5000001, 1.0]]), 0)
    assert kept.tolist() == [[0, 0, 1, 1]]
    assert way.visit(kept).tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_none_changes_nothing():
    way = binarisation("none")
    assert torch.equal(way.visit(way.prepare(GREY, 0)), GREY)


@pytest.mark.parametrize("name", binarisation_names())
def test_a_dataset_is_reproducible_under_its_seed(dataset, name):
    first, again = binarise_dataset(dataset, name, 7), binarise_dataset(dataset, name, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_parts_get_draws_of_their_own(dataset):
    train, validation, test = binarise_dataset(dataset, "static", 0)
    others = binarise_dataset(dataset, "static", 1)
    draws = [train, validation, test, *others]
    for index, one in enumerate(draws):
        for other in draws[index + 1 :]:
            assert within_5_standard_errors(one * other, GREY**2)  # independent, hence not equal


def test_under_dynamic_the_evaluation_parts_are_drawn_once(dataset):
    way = binarisation("dynamic")
    train, validation, test = binarise_dataset(dataset, "dynamic", 0)
    assert torch.equal(train, dataset.train)
    for part in (validation, test):
        assert part.dtype == torch.uint8
        assert within_5_standard_errors(part, GREY)
        assert torch.equal(way.visit(part), part.float())
    assert not torch.equal(validation, test)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_same_seed_is_the_same_data_on_every_device():
    way = binarisation("static")
    there = way.prepare(GREY.cuda(), 0)
    assert there.is_cuda
    assert torch.equal(there.cpu(), way.prepare(GREY, 0))
