import pytest
import torch

from pyro_dvae.datasets import load_dataset

sklearn_datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "no/such/folder", download=False)


def test_sizes_and_values(digits):
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1257, 270, 270)
    everything = torch.cat([digits.train, digits.validation, digits.test])
    original = torch.from_numpy(sklearn_datasets.load_digits().data).float() / 16
    # All rows differ in the package, so that equal sets of rows mean a disjoint and complete split.
    assert len(original.unique(dim=0)) == 1797
    assert torch.equal(everything.unique(dim=0), original.unique(dim=0))
    assert (digits.image_shape, digits.binary) == ((8, 8), False)
    assert "scikit-learn" in digits.source
    assert "1257 train, 270 validation, 270 test" in digits.source


def test_labels_follow_their_images(digits):
    bunch = sklearn_datasets.load_digits()
    known = {tuple(row): int(label) for row, label in zip(bunch.data / 16, bunch.target, strict=True)}
    for part in ("train", "validation", "test"):
        images, labels = getattr(digits, part), getattr(digits, f"{part}_labels")
        assert [known[tuple(row)] for row in images.tolist()] == labels.tolist()
        assert labels.unique().tolist() == list(range(10))


def test_the_seed_of_the_split(digits):
    again, other = load_dataset("digits"), load_dataset("digits", split_seed=1)
    assert torch.equal(again.train, digits.train)
    assert not torch.equal(other.train, digits.train)
