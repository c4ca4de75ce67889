from pathlib import Path

import pytest
import torch

from pyro_dvae.datasets import dataset_names, load_dataset
from pyro_dvae.datasets import registry as door
from pyro_dvae.datasets.base import Dataset, UnavailableError
from pyro_dvae.errors import DataError, InputError


def test_the_names():
    assert dataset_names() == (
        "binarised-mnist",
        "binarised-omniglot",
        "caltech101-silhouettes",
        "cifar10",
        "digits",
        "fashion-mnist",
        "frey",
        "kmnist",
        "mnist",
        "omniglot",
        "svhn",
    )


def attempt(name, root):
    try:
        return load_dataset(name, root, download=False)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("name", dataset_names())
def test_every_name_without_download_loads_or_says_what_to_do(name, tmp_path):
    outcome = attempt(name.upper(), tmp_path)
    if isinstance(outcome, Dataset):
        assert outcome.name == name
    else:
        assert "--dataset digits" in outcome or "pip install" in outcome
        assert "\n" not in outcome


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(
        InputError,
        match=r"unknown name 'mnits' \(did you mean 'mnist'\?\).*\.csv, \.mat, .*\.tsv",
    ):
        load_dataset("mnits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 3}, "dataset: expected a name"),
        ({"name": "digits", "scale": "bytes"}, "scale, columns, .* only for your own files"),
        ({"name": "x.npy", "scale": "byte"}, "scale: unknown name 'byte' .did you mean 'bytes'"),
        ({"name": "x.npy", "drop": 3}, "drop: expected names of columns, got 3"),
        ({"name": "digits", "root": None}, "root: expected a folder's path, got None"),
        ({"name": "digits", "split_seed": -1}, "split_seed: expected a whole number of at least 0, got -1"),
        (
            {"name": "digits", "split_seed": 2**32},
            "split_seed: expected a whole number of at most 4294967295",
        ),
        (
            {"name": Path("digits")},
            r"digits: expected a file ending in one of \.csv, \.mat, .*\.tsv",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        load_dataset(**arguments)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'digits' is registered already"):
        door.register("Digits")(lambda request: None)


def test_the_case_of_a_name_does_not_matter(monkeypatch):
    monkeypatch.setattr(door, "_named", {})
    x = torch.zeros(2, 3)
    made = Dataset("Mine", x, x, x, None, None, None, None, True, "here")
    door.register("Mine")(lambda request: made)
    assert load_dataset("Mine").source == load_dataset("mine").source == "here"


def test_the_fallback_is_loud_and_says_why(tmp_path):
    pytest.importorskip("sklearn")
    with pytest.warns(UserWarning, match="NOT MNIST, but 'digits' .*Reason: .*") as caught:
        data = load_dataset(root=tmp_path / "absent", download=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)
    assert (data.name, data.substituted_for, data.dimension) == ("digits", "mnist", 64)
    assert "in place of mnist, because: " in data.source
    assert torch.equal(data.test, load_dataset("digits").test)


def test_the_fallback_when_the_download_fails_or_torchvision_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")

    def fail(request):
        raise UnavailableError("dataset 'mnist' needs the package torchvision")

    monkeypatch.setitem(door._named, "mnist", fail)
    with pytest.warns(UserWarning, match="needs the package torchvision"):
        assert load_dataset(None, tmp_path).substituted_for == "mnist"
    with pytest.raises(DataError, match="needs the package torchvision"):
        load_dataset("mnist", tmp_path)


def test_no_fallback_when_mnist_is_there(monkeypatch):
    part = torch.zeros(1, 4)
    here = Dataset("mnist", part, part, part, None, None, None, (2, 2), True, "here")
    monkeypatch.setitem(door._named, "mnist", lambda request: here)
    assert load_dataset() is here
