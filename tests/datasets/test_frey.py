import hashlib
import io
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pyro_dvae.datasets import frey, load_dataset
from pyro_dvae.errors import DataError

scipy_io = pytest.importorskip("scipy.io")

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"


def frames():
    """Frame n holds n in its first two pixels and a gradient below, so that no two rows are equal."""
    faces = np.tile((np.arange(560) % 251).astype(np.uint8)[:, None], (1, 1965))
    faces[0], faces[1] = np.arange(1965) // 256, np.arange(1965) % 256
    return faces


def numbers(part):
    grey = (part[:, :2] * 255).round().int()
    return (grey[:, 0] * 256 + grey[:, 1]).tolist()


def mat(faces, key="ff"):
    file = io.BytesIO()
    scipy_io.savemat(file, {key: faces})
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise URLError("refused by the test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_the_split_is_disjoint_and_the_values_are_the_files(tmp_path):
    (tmp_path / frey.FILE).write_bytes(mat(frames()))
    data = load_dataset("frey", tmp_path, download=False)
    parts = [numbers(data.train), numbers(data.validation), numbers(data.test)]
    assert [len(part) for part in parts] == [1572, 295, 98]
    assert sorted([number for part in parts for number in part]) == list(range(1965))
    assert parts[0] != sorted(parts[0])
    assert torch.equal(data.test, torch.from_numpy(frames()).T[parts[2]] / 255)
    assert (data.image_shape, data.binary, data.train_labels, data.test_labels) == (
        (28, 20),
        False,
        None,
        None,
    )
    assert "1572 train, 295 validation, 98 test (the rest; the paper says 200)" in data.source
    assert "not byte for byte the published file" in data.source


def test_the_seed_of_the_split(tmp_path):
    (tmp_path / frey.FILE).write_bytes(mat(frames()))
    first, again, other = (load_dataset("frey", tmp_path, split_seed=seed) for seed in (0, 0, 5))
    assert torch.equal(first.test, again.test)
    assert numbers(first.test) != numbers(other.test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mat(frames())[:5000], r"damaged \.mat file, expected 996854 bytes, found 5000"),
        (b"<html>moved</html>", "found 18"),
        (b"", "found 0"),
        (mat(frames(), key="faces"), "expected an array 'ff' of uint8 .*found no 'ff'"),
        (mat(frames().T), r"found 'ff' of uint8 \[1965, 560\]"),
        (mat(frames() / 255.0), r"found 'ff' of float64 \[560, 1965\]"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    (tmp_path / frey.FILE).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_dataset("frey", tmp_path)
    assert "\n" not in str(error.value)


def test_missing_with_download_off(tmp_path):
    with pytest.raises(DataError, match=r"download is off; put frey_rawface\.mat in that folder"):
        load_dataset("frey", tmp_path, download=False)


def test_a_failed_download_names_both_addresses(tmp_path):
    with pytest.raises(DataError, match=r"//cs\.nyu.*refused by the test.*//www\.cs\.nyu.*--dataset digits"):
        load_dataset("frey", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_download_takes_the_mirror_and_is_checked(tmp_path, monkeypatch):
    content = mat(frames())
    asked = []

    def serve(url, timeout):
        asked.append(url)
        return io.BytesIO(content[:-1] if len(asked) == 1 else content)

    monkeypatch.setattr("urllib.request.urlopen", serve)
    with pytest.raises(DataError, match=f"{len(content)} bytes with the wrong checksum"):
        load_dataset("frey", tmp_path)
    assert list(tmp_path.iterdir()) == []

    asked.clear()
    monkeypatch.setattr(frey, "SHA256", hashlib.sha256(content).hexdigest())
    data = load_dataset("frey", tmp_path)
    assert asked == list(frey.URLS)
    assert "downloaded from cs.nyu.edu" in data.source
    assert "not byte for byte" not in data.source
    assert [path.name for path in tmp_path.iterdir()] == [frey.FILE]
    assert (tmp_path / frey.FILE).read_bytes() == content


@pytest.mark.skipif(not (REAL / frey.FILE).is_file(), reason="no shared data here")
def test_the_real_faces_are_upright():
    data = load_dataset("frey", REAL, download=False)
    assert "not byte for byte" not in data.source
    everything = torch.cat([data.train, data.validation, data.test])
    assert len(everything.unique(dim=0)) == 1965
    face = everything.mean(0).reshape(data.image_shape)
    assert (everything.min() * 255, everything.max() * 255) == (pytest.approx(8), pytest.approx(238))
    # The forehead is bright; the eyes, a third down and left and right of the nose, are dark.
    eyes = torch.cat([face[6:9, 3:8], face[6:9, 12:17]], dim=1).mean()
    assert float(face[1:5, 6:14].mean()) > float(eyes) + 0.2
    # In the wrong order the rows would not be smooth.
    assert float((face[1:] - face[:-1]).abs().mean()) < 0.1
