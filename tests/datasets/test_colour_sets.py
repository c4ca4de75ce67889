"""CIFAR-10 and SVHN by torchvision's own download code, checksums included, against a local server."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch

from pyro_dvae.datasets import load_dataset
from pyro_dvae.errors import DataError

datasets = pytest.importorskip("torchvision.datasets")
scipy_io = pytest.importorskip("scipy.io")

RANDOM = np.random.RandomState(0)
BATCHES = {
    f"data_batch_{index}": {
        "data": RANDOM.randint(256, size=(4, 3072)).astype(np.uint8),
        "labels": [index] * 4,
    }
    for index in range(1, 6)
} | {"test_batch": {"data": RANDOM.randint(256, size=(3, 3072)).astype(np.uint8), "labels": [7, 8, 9]}}
SVHN = {
    part: {
        "X": RANDOM.randint(256, size=(32, 32, 3, rows)).astype(np.uint8),
        "y": np.arange(1, rows + 1)[:, None],
    }
    for part, rows in (("train", 10), ("test", 3))
}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(web, monkeypatch):
    """Serve an archive of batches in the old format: the dtype's alignment is a number, not a bool."""
    served, address = web
    folder = served / "cifar-10-batches-py"
    folder.mkdir()
    for name, batch in (BATCHES | {"batches.meta": {"label_names": list("abcdefghij")}}).items():
        (folder / name).write_bytes(
            pickle.dumps(batch, protocol=2).replace(b"\x89\x88\x87R", b"K\x00K\x01\x87R")
        )
    archive = served / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    sums = {path.name: md5(path) for path in folder.iterdir()}
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(datasets.CIFAR10, "filename", archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[n, sums[n]] for n in BATCHES if n != "test_batch"])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(
        datasets.CIFAR10,
        "meta",
        {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]},
    )
    return [archive], [f"cifar-10-batches-py/{name}" for name in sums]


def svhn(web, monkeypatch):
    """Serve the two files."""
    served, address = web
    places = {}
    for part, content in SVHN.items():
        file = served / f"{part}_32x32.mat"
        scipy_io.savemat(file, content)
        places[part] = [f"{address}/{file.name}", file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", places)
    return sorted(served.iterdir()), [f"{part}_32x32.mat" for part in SVHN]


SERVED = {"cifar10": cifar, "svhn": svhn}


def expected(name):
    """The rows and labels of training and test files, one channel after the other."""
    if name == "cifar10":
        training = [batch for key, batch in BATCHES.items() if key != "test_batch"]
        rows = np.concatenate([batch["data"] for batch in training])
        labels = [label for batch in training for label in batch["labels"]]
        return rows, labels, BATCHES["test_batch"]["data"], BATCHES["test_batch"]["labels"]
    flat = {part: content["X"].transpose(3, 2, 0, 1).reshape(-1, 3072) for part, content in SVHN.items()}
    return flat["train"], [*range(1, 10), 0], flat["test"], [1, 2, 3]


@pytest.mark.parametrize("name", SERVED)
def test_a_download_ends_as_a_local_folder(name, tmp_path, web, monkeypatch):
    served, files = SERVED[name](web, monkeypatch)
    root = tmp_path / "root"
    data = load_dataset(name, root)
    rows, labels, test, test_labels = expected(name)
    kept = len(rows) - len(rows) // 10
    assert torch.equal(data.train, torch.from_numpy(rows[:kept]).float() / 255)
    assert torch.equal(data.validation, torch.from_numpy(rows[kept:]).float() / 255)
    assert torch.equal(data.test, torch.from_numpy(test).float() / 255)
    assert data.train_labels.tolist() + data.validation_labels.tolist() == labels
    assert data.test_labels.tolist() == test_labels
    assert (data.image_shape, data.binary) == ((3, 32, 32), False)
    assert "downloaded by torchvision to" in data.source
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(files)
    for file in served:
        file.unlink()
    again = load_dataset(name, root)
    assert torch.equal(again.train, data.train)
    assert "read from" in again.source


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("kept", [-4, 0, None])
def test_a_download_that_fails_or_breaks_off_leaves_nothing(name, kept, tmp_path, web, monkeypatch):
    served, _ = SERVED[name](web, monkeypatch)
    if kept is None:
        served[-1].unlink()
    else:
        served[-1].write_bytes(served[-1].read_bytes()[:kept])
    with pytest.raises(DataError, match=r"the download failed .*put .* in that folder") as error:
        load_dataset(name, tmp_path / "root")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", SERVED)
def test_a_changed_file_is_never_unpickled_or_used(name, tmp_path, web, monkeypatch):
    _, files = SERVED[name](web, monkeypatch)
    root = tmp_path / "root"
    load_dataset(name, root)
    (root / files[1]).write_bytes((root / files[1]).read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"damaged .*corrupted.*to download it again") as error:
        load_dataset(name, root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SERVED)
def test_a_missing_file_with_download_off(name, tmp_path, web, monkeypatch):
    SERVED[name](web, monkeypatch)
    with pytest.raises(
        DataError, match=r"download is off; put (the folder cifar-10-batches-py|train_32x32\.mat)"
    ):
        load_dataset(name, tmp_path, download=False)
