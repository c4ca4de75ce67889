"""The MNIST family on tiny files in torchvision's layout, written here; no network is used."""

import gzip
import os
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pyro_dvae.datasets import load_dataset
from pyro_dvae.datasets.base import UnavailableError
from pyro_dvae.datasets.mnist import CLASSES, FILES
from pyro_dvae.errors import DataError

datasets = pytest.importorskip("torchvision.datasets")

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"


def contents(train=12, test=4, shape=(3, 2)):
    """The four files of a set whose images are all different."""
    height, width = shape
    files, first = {}, 0
    for part, count in (("train", train), ("t10k", test)):
        pixels = (np.arange(count * height * width) + first).astype(np.uint8)
        first += pixels.size
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">4I", 2051, count, height, width) + pixels.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">2I", 2049, count) + bytes(range(count))
    return files


def write(root, files, folder="MNIST", packed=()):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        if name in packed:
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (raw / name).write_bytes(content)
    return raw


def snapshot(root):
    return {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise URLError("refused by the test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("download", [False, True])
def test_round_trip_with_the_last_sixth_as_validation(tmp_path, name, download):
    write(tmp_path, contents(), CLASSES[name])
    before = snapshot(tmp_path)
    data = load_dataset(name, tmp_path, download=download)
    pixels = torch.arange(16 * 6).reshape(16, 6) / 255
    assert torch.equal(data.train, pixels[:10])
    assert torch.equal(data.validation, pixels[10:12])
    assert torch.equal(data.test, pixels[12:])
    assert data.train_labels.tolist() == list(range(10))
    assert data.validation_labels.tolist() == [10, 11]
    assert data.test_labels.tolist() == [0, 1, 2, 3]
    assert (data.name, data.image_shape, data.binary, data.dimension) == (name, (3, 2), False, 6)
    assert "10 train and 2 validation" in data.source
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("packed", [FILES, FILES[1:3]])
def test_packed_files_are_read_without_writing_to_the_root(tmp_path, packed):
    write(tmp_path, contents(), packed=packed)
    before = snapshot(tmp_path)
    data = load_dataset("mnist", str(tmp_path), download=False)
    assert torch.equal(
        torch.cat([data.train, data.validation, data.test]) * 255, torch.arange(96.0).reshape(16, 6)
    )
    assert snapshot(tmp_path) == before


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "sets", contents())
    assert load_dataset("mnist", "~/sets", download=False).dimension == 6


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("packed", [(), FILES])
def test_a_truncated_file_is_named_with_its_bytes(tmp_path, file, packed):
    files = contents()
    whole = len(files[file])
    files[file] = files[file][:-3]
    write(tmp_path, files, packed=packed)
    ending = r"\.gz" if packed else ""
    with pytest.raises(
        DataError, match=rf"{file}{ending}: .*expected {whole} bytes, found {whole - 3}"
    ) as error:
        load_dataset("mnist", tmp_path)
    assert not isinstance(error.value, UnavailableError)
    assert "\n" not in str(error.value)


def test_a_damaged_set_is_not_replaced_in_silence(tmp_path):
    files = contents()
    files[FILES[0]] = files[FILES[0]][:-3]
    write(tmp_path, files)
    with pytest.raises(DataError, match="damaged IDX file"):
        load_dataset(None, tmp_path)


def test_exchanged_files_are_refused(tmp_path):
    files = contents(train=30)
    files[FILES[0]], files[FILES[1]] = files[FILES[1]], files[FILES[0]]
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: .*magic number 2049 instead of 2051"):
        load_dataset("mnist", tmp_path)


def test_every_image_needs_its_label(tmp_path):
    files = contents()
    files[FILES[1]] = contents(train=11)[FILES[1]]
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: expected 12 labels, .* found 11"):
        load_dataset("mnist", tmp_path)


def test_train_and_test_images_have_one_size(tmp_path):
    files = contents()
    files[FILES[2]] = contents(shape=(4, 4))[FILES[2]]
    write(tmp_path, files)
    with pytest.raises(DataError, match="mnist, test: expected 6 values per row, as in train, got 16"):
        load_dataset("mnist", tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"'.*absent' does not exist and download is off; put MNIST/raw"):
        load_dataset("mnist", tmp_path / "absent", download=False)


def test_a_missing_file_with_download_off(tmp_path):
    files = contents()
    del files[FILES[3]]
    write(tmp_path, files, "KMNIST")
    with pytest.raises(DataError, match=r"it is not in .* and download is off; put KMNIST/raw"):
        load_dataset("kmnist", tmp_path, download=False)


@pytest.mark.parametrize("name", CLASSES)
def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path, name, capsys):
    with pytest.raises(UnavailableError, match=r"the download failed .*refused by the test") as error:
        load_dataset(name, tmp_path / "a" / "b")
    assert "\n" not in str(error.value)
    assert "--dataset digits" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the download failed .*file"):
        load_dataset("mnist", tmp_path / "file")


def test_a_download_goes_through_torchvision_and_is_moved_into_place(tmp_path, monkeypatch):
    def deliver(self):
        for name, content in contents().items():
            os.makedirs(self.raw_folder, exist_ok=True)
            (Path(self.raw_folder) / name).write_bytes(content)
        print("chatter")

    monkeypatch.setattr(datasets.MNIST, "download", deliver)
    data = load_dataset("mnist", tmp_path / "new")
    assert "downloaded by torchvision" in data.source
    assert sorted(path.name for path in (tmp_path / "new").rglob("*-ubyte")) == sorted(FILES)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]
    assert "read from" in load_dataset("mnist", tmp_path / "new", download=False).source


def test_a_download_leaves_the_files_that_were_there(tmp_path, monkeypatch):
    files = contents()
    raw = write(tmp_path, {FILES[0]: files[FILES[0]]})
    before = snapshot(raw)

    def deliver(self):
        os.makedirs(self.raw_folder)
        for name in FILES:
            (Path(self.raw_folder) / name).write_bytes(files[name])

    monkeypatch.setattr(datasets.MNIST, "download", deliver)
    load_dataset("mnist", tmp_path)
    assert before.items() <= snapshot(raw).items()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="no shared data here")
def test_the_real_mnist():
    before = snapshot(REAL)
    data = load_dataset("mnist", REAL, download=False)
    assert (len(data.train), len(data.validation), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.image_shape == (28, 28)
    # The training file's published mean and the class counts of the test file.
    both = torch.cat([data.train, data.validation])
    assert float(both.double().mean()) == pytest.approx(0.1306604762738429, abs=1e-7)
    assert data.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert snapshot(REAL) == before
