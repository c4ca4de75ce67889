"""Downloaded data sets: small generated files in the published format, and the real silhouettes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_dvae.datasets import binarised_mnist, load_dataset, omniglot, silhouettes
from pyro_dvae.errors import DataError

scipy_io = pytest.importorskip("scipy.io")

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
RANDOM = np.random.RandomState(0)
OMNIGLOT = {
    "data": RANDOM.rand(784, 9),
    "testdata": RANDOM.rand(784, 4),
    "target": np.eye(50)[:, RANDOM.randint(50, size=9)],
    "testtarget": np.eye(50)[:, RANDOM.randint(50, size=4)],
}
SILHOUETTES = {
    f"{part}_{kind}": RANDOM.randint(2, size=(rows, 784))
    if kind == "data"
    else np.arange(1, rows + 1)[:, None]
    for part, rows in (("train", 5), ("val", 3), ("test", 2))
    for kind in ("data", "labels")
}
BITS = {part: RANDOM.randint(2, size=(rows, 784)) for part, rows in (("train", 4), ("valid", 2), ("test", 3))}


def amat(bits):
    return "".join(" ".join(map(str, row)) + " \n" for row in bits).encode()


def write_omniglot(folder, without=()):
    content = {key: value for key, value in OMNIGLOT.items() if key not in without}
    scipy_io.savemat(folder / omniglot.FILE, content)


def write_silhouettes(folder):
    scipy_io.savemat(folder / silhouettes.FILE, {k: v.astype(np.uint8) for k, v in SILHOUETTES.items()})


def write_binarised(folder):
    for part, bits in BITS.items():
        (folder / f"binarized_mnist_{part}.amat").write_bytes(amat(bits))


WRITERS = {
    "omniglot": write_omniglot,
    "binarised-omniglot": write_omniglot,
    "caltech101-silhouettes": write_silhouettes,
    "binarised-mnist": write_binarised,
}
FILES = {
    "omniglot": [omniglot.FILE],
    "binarised-omniglot": [omniglot.FILE],
    "caltech101-silhouettes": [silhouettes.FILE],
    "binarised-mnist": [f"binarized_mnist_{part}.amat" for part in BITS],
}


@pytest.fixture(autouse=True)
def small(web, monkeypatch):
    """Set the sizes of the generated files and their addresses on this machine."""
    _, address = web
    monkeypatch.setattr(omniglot, "IMAGES", {k: ("real", OMNIGLOT[k].shape) for k in ("data", "testdata")})
    monkeypatch.setattr(
        omniglot, "TARGETS", {k: ("real", OMNIGLOT[k].shape) for k in ("target", "testtarget")}
    )
    monkeypatch.setattr(omniglot, "VALIDATION", 2)
    monkeypatch.setattr(omniglot, "URLS", (f"{address}/gone/{omniglot.FILE}", f"{address}/{omniglot.FILE}"))
    monkeypatch.setattr(silhouettes, "SIZES", {"train": 5, "val": 3, "test": 2})
    monkeypatch.setattr(silhouettes, "FORMS", {k: ("uint8", v.shape) for k, v in SILHOUETTES.items()})
    monkeypatch.setattr(silhouettes, "URL", f"{address}/{silhouettes.FILE}")
    monkeypatch.setattr(binarised_mnist, "SIZES", {part: len(bits) for part, bits in BITS.items()})
    monkeypatch.setattr(binarised_mnist, "BASE", address)


def columns_first(images):
    """Images [N, 784] whose columns came first, by an index at a time."""
    return images[:, [28 * (i % 28) + i // 28 for i in range(784)]]


def test_omniglot_is_split_and_turned_as_its_authors_did(tmp_path):
    write_omniglot(tmp_path)
    data = load_dataset("omniglot", tmp_path, download=False, split_seed=3)
    order = np.random.RandomState(123).permutation(9)
    images = torch.from_numpy(columns_first(OMNIGLOT["data"].T)).float()
    assert torch.equal(data.train, images[order[:7]])
    assert torch.equal(data.validation, images[order[7:]])
    assert torch.equal(data.test, torch.from_numpy(columns_first(OMNIGLOT["testdata"].T)).float())
    assert data.validation_labels.tolist() == OMNIGLOT["target"].argmax(0)[order[7:]].tolist()
    assert data.test_labels.tolist() == OMNIGLOT["testtarget"].argmax(0).tolist()
    assert (data.image_shape, data.binary) == ((28, 28), False)
    assert "7 train, 2 validation, 4 test" in data.source


def test_the_static_draw_of_omniglot_is_the_published_one(tmp_path):
    write_omniglot(tmp_path)
    data = load_dataset("binarised-omniglot", tmp_path, download=False)
    np.random.seed(5)  # noqa: NPY002 - as the published code draws: the training rows, then the test rows
    train = np.random.rand(9, 784) < columns_first(OMNIGLOT["data"].T).astype(np.float32)  # noqa: NPY002
    test = np.random.rand(4, 784) < columns_first(OMNIGLOT["testdata"].T).astype(np.float32)  # noqa: NPY002
    order = np.random.RandomState(123).permutation(9)
    assert np.array_equal(torch.cat([data.train, data.validation]).numpy(), train[order])
    assert np.array_equal(data.test.numpy(), test)
    assert data.binary
    assert "seed 5" in data.source


def test_omniglot_without_alphabets_has_no_labels(tmp_path):
    write_omniglot(tmp_path, without=("testtarget",))
    data = load_dataset("omniglot", tmp_path, download=False)
    assert data.train_labels is not None
    assert data.test_labels is None


def test_silhouettes_are_upright_and_one_where_the_object_is(tmp_path):
    write_silhouettes(tmp_path)
    data = load_dataset("caltech101-silhouettes", tmp_path, download=False)
    for part, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = 1 - columns_first(SILHOUETTES[f"{key}_data"])
        assert np.array_equal(getattr(data, part).numpy(), expected)
        assert getattr(data, f"{part}_labels").tolist() == list(range(len(expected)))
    assert (data.image_shape, data.binary) == ((28, 28), True)


def test_binarised_mnist_is_as_its_lines_say(tmp_path):
    write_binarised(tmp_path)
    last = tmp_path / "binarized_mnist_test.amat"
    last.write_bytes(last.read_bytes().replace(b" \n", b"\r\n").rstrip() + b"\r\n\r\n")
    data = load_dataset("binarised-mnist", tmp_path, download=False)
    for part, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert np.array_equal(getattr(data, part).numpy(), BITS[key])
    assert (data.image_shape, data.binary, data.train_labels) == ((28, 28), True, None)
    assert "4 train, 2 validation, 3 test" in data.source


@pytest.mark.parametrize("name", WRITERS)
def test_a_download_ends_as_a_local_file(name, tmp_path, web):
    folder, _ = web
    WRITERS[name](folder)
    data = load_dataset(name, tmp_path / "root")
    assert "downloaded to" in data.source
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == sorted(FILES[name])
    for file in folder.iterdir():
        file.unlink()
    again = load_dataset(name, tmp_path / "root")
    assert "read from" in again.source
    assert torch.equal(again.train, data.train)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [None, 0, -5, 300])
def test_a_download_that_fails_or_breaks_off_leaves_nothing(name, kept, tmp_path, web):
    folder, address = web
    if kept is not None:
        WRITERS[name](folder)
        last = folder / FILES[name][-1]
        last.write_bytes(last.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"the download failed .*{address}") as error:
        load_dataset(name, tmp_path / "root")
    assert "\n" not in str(error.value)
    assert f"put {', '.join(FILES[name])[:20]}" in str(error.value)
    assert not (tmp_path / "root").exists()


def test_an_answer_cut_short_is_refused(tmp_path, web, monkeypatch):
    """The server announces more bytes than it sends; the part that it sends reads as a complete file."""
    from http.server import SimpleHTTPRequestHandler

    folder, _ = web
    write_binarised(folder)
    end_headers = SimpleHTTPRequestHandler.send_header

    def promise(self, key, value):
        end_headers(self, key, str(int(value) + 7) if key == "Content-Length" else value)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "send_header", promise)
    with pytest.raises(DataError, match=r"the download failed .*IncompleteRead"):
        load_dataset("binarised-mnist", tmp_path / "root")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>moved</html>", "found other text"),
        (b"", "expected 4 lines of 784 digits, found 0 lines of 0 digits"),
        (amat(BITS["train"][:3]), "found 3 lines of 2352 digits"),
        (amat(BITS["train"]).replace(b"\n", b"", 1), "found 3 lines of 3136 digits"),
        (amat(BITS["train"]).replace(b" ", b"", 1), "found other text"),
        (amat(BITS["train"]).replace(b"1", b"2", 1), "found other text"),
    ],
)
def test_a_bad_text_file_is_refused(content, message, tmp_path):
    write_binarised(tmp_path)
    (tmp_path / "binarized_mnist_train.amat").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_dataset("binarised-mnist", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": OMNIGLOT["data"].T},
            r"'data' of real numbers \[784, 9\], found 'data' of float64 \[9, 784\]",
        ),
        ({"testdata": np.array(["a"])}, "found 'testdata' of <U1"),
        ({"testdata": OMNIGLOT["testdata"] * 255}, "omniglot, test: expected values in"),
        ({"data": np.full((784, 9), np.nan)}, "NaN"),
    ],
)
def test_a_bad_omniglot_is_refused(change, message, tmp_path):
    scipy_io.savemat(tmp_path / omniglot.FILE, OMNIGLOT | change)
    with pytest.raises(DataError, match=message):
        load_dataset("omniglot", tmp_path)


@pytest.mark.skipif(not (REAL / silhouettes.FILE).is_file(), reason="no shared data here")
def test_the_real_silhouettes(monkeypatch):
    monkeypatch.undo()
    data = load_dataset("caltech101-silhouettes", REAL, download=False)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [4100, 2264, 2307]
    assert (int(data.train_labels.min()), int(data.train_labels.max())) == (0, 100)
    # Objects lie in the middle, the background at the corners; a car is wider than high.
    mean = data.train.mean(0).reshape(28, 28)
    assert mean[12:16, 12:16].mean() > 0.8
    assert mean[[0, 0, -1, -1], [0, -1, 0, -1]].mean() < 0.25
    car = data.train[7].reshape(28, 28)
    assert car.any(0).sum() > car.any(1).sum() + 4
