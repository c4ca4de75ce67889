import dataclasses

import pytest
import torch

from pyro_dvae import GaussianGuide
from pyro_dvae.datasets import Dataset, load_dataset
from pyro_dvae.datasets.base import UnavailableError, image_shape_of, is_binary, needs
from pyro_dvae.errors import DataError

GOOD = {
    "name": "small",
    "train": torch.tensor([[0.0, 0.5], [1.0, 0.25]]),
    "validation": torch.tensor([[0.0, 0.5]]),
    "test": torch.tensor([[0.0, 1.0]]),
    "train_labels": torch.tensor([3, 4]),
    "validation_labels": None,
    "test_labels": None,
    "image_shape": (1, 2),
    "binary": False,
    "source": "made up here",
}


def test_a_good_dataset_knows_its_dimension_and_keeps_what_it_was_given():
    data = Dataset(**GOOD)
    assert data.dimension == 2
    assert data.substituted_for is None
    assert data.train is GOOD["train"]
    assert "tensor" not in repr(data)


def test_an_image_of_colours_is_flat_as_torch_has_it():
    rows = torch.arange(12.0).reshape(1, 12) / 12
    parts = dict.fromkeys(("train", "validation", "test"), rows)
    data = Dataset(**GOOD | parts | {"train_labels": None, "image_shape": (3, 2, 2)})
    image = data.train[0].reshape(data.image_shape)
    assert torch.equal(image[1] * 12, torch.tensor([[4.0, 5.0], [6.0, 7.0]]))


def test_its_type_is_torchs_default_like_that_of_new_modules():
    torch.set_default_dtype(torch.float64)  # the fixture restores it
    data = load_dataset("digits")
    assert {getattr(data, part).dtype for part in ("train", "validation", "test")} == {torch.float64}
    guide = GaussianGuide.of_sizes(data.dimension, 2, (3,))
    assert guide(data.test[:2]).dtype == torch.float64
    torch.set_default_dtype(torch.float32)
    assert load_dataset("digits").train.dtype == torch.float32


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dataset(**GOOD).name = "other"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test": GOOD["test"].double()},
            "small, test: expected torch.float32 as in train, got torch.float64",
        ),
        ({"train": GOOD["train"].long()}, r"small, train: expected a floating-point tensor .* got int64"),
        ({"train": [[0.0, 1.0]]}, "got list"),
        ({"train": torch.zeros(2)}, r"got float32 \[2\]"),
        ({"test": torch.zeros(1, 3)}, "small, test: expected 2 values per row, as in train, got 3"),
        ({"test": torch.zeros(0, 2)}, "at least one element"),
        ({"validation": torch.tensor([[0.0, float("nan")]])}, "1 NaN or infinite of 2"),
        ({"image_shape": (1, 1, 1, 2)}, "an image_shape of two or three whole numbers with product 2"),
        (
            {"train_labels": torch.tensor([1])},
            r"train_labels: expected an int64 tensor \[2\], got int64 \[1\]",
        ),
        ({"test_labels": torch.tensor([1.0])}, r"test_labels: .*got float32 \[1\]"),
        ({"image_shape": (2, 2)}, r"two or three whole numbers with product 2, got \(2, 2\)"),
        ({"image_shape": (2,)}, r"got \(2,\)"),
        ({"image_shape": (1, 1, 1, 2)}, r"got \(1, 1, 1, 2\)"),
        ({"image_shape": (-1, -2)}, r"got \(-1, -2\)"),
        ({"image_shape": (1.0, 2)}, r"got \(1\.0, 2\)"),
        ({"binary": True}, "declared binary"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(DataError, match=message) as error:
        Dataset(**{**GOOD, **change})
    assert "\n" not in str(error.value)


def test_is_binary():
    assert is_binary(torch.tensor([0.0, 1.0]), torch.ones(1))
    assert not is_binary(torch.tensor([0.0, 1.0]), torch.tensor([0.999]))


@pytest.mark.parametrize(("dimension", "shape"), [(64, (8, 8)), (560, (1, 560)), (1, (1, 1)), (2, (1, 2))])
def test_image_shape_of(dimension, shape):
    assert image_shape_of(dimension) == shape


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(
        UnavailableError, match=r"dataset 'x' needs the package some-thing .*pip install some-thing"
    ):
        needs("no_such_module_anywhere", "some-thing", "x")
