"""Torchvision's own download code, checksums included, against a server on this machine."""

import gzip
import hashlib
import struct

import pytest
import torch

from pyro_dvae.datasets import load_dataset
from pyro_dvae.datasets.mnist import FILES
from pyro_dvae.errors import DataError

datasets = pytest.importorskip("torchvision.datasets")

IMAGES = struct.pack(">4I", 2051, 6, 2, 2) + bytes(range(24))
LABELS = struct.pack(">2I", 2049, 6) + bytes(range(6))


@pytest.fixture
def served(web, monkeypatch):
    """The folder behind torchvision's one mirror of MNIST, filled with a set of six images."""
    folder, address = web
    resources = []
    for name in FILES:
        packed = gzip.compress(IMAGES if "images" in name else LABELS)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return folder


def test_a_download_ends_as_a_local_folder(tmp_path, served):
    data = load_dataset("mnist", tmp_path / "root")
    assert torch.equal(data.train * 255, torch.arange(20.0).reshape(5, 4))
    assert data.validation_labels.tolist() == [5]
    found = [
        str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*") if path.is_file()
    ]
    assert sorted(found) == sorted(f"MNIST/raw/{name}" for name in FILES)
    for file in served.iterdir():
        file.unlink()
    assert torch.equal(load_dataset("mnist", tmp_path / "root").train, data.train)


@pytest.mark.parametrize("kept", [-4, 0])
def test_a_download_that_breaks_off_leaves_nothing(tmp_path, served, kept):
    last = served / f"{FILES[-1]}.gz"
    last.write_bytes(last.read_bytes()[:kept])
    # The file is named by newer versions of torchvision only.
    with pytest.raises(DataError, match=r"the download failed .*File not found or corrupted") as error:
        load_dataset("mnist", tmp_path / "root")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "root").exists()
