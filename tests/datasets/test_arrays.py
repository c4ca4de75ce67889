import io
import pickle
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from pyro_dvae.datasets import load_dataset
from pyro_dvae.datasets.arrays import reading
from pyro_dvae.errors import DataError, InputError

RNG = np.random.default_rng(0)
UNIT = RNG.random((30, 9)).astype(np.float32)


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def load(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_dataset(str(path), **options)


def rows(data):
    return torch.cat([data.train, data.validation, data.test])


def ordered(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float32).unique(dim=0)


# Values


def test_npy_is_split_into_disjoint_parts(tmp_path):
    data = load(tmp_path, "mine.npy", npy(UNIT))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [24, 3, 3]
    assert torch.equal(rows(data).unique(dim=0), ordered(UNIT))
    assert (data.name, data.image_shape, data.binary) == ("mine.npy", (3, 3), False)
    assert "24 train, 3 validation, 3 test, by a permutation with seed 0; real numbers from 0" in data.source
    assert data.source.endswith("values as they are")
    other = load_dataset(tmp_path / "mine.npy", split_seed=1)
    assert not torch.equal(other.train, data.train)
    assert torch.equal(load_dataset(tmp_path / "mine.npy").train, data.train)


def test_three_rows_are_enough(tmp_path):
    data = load(tmp_path, "x.npy", npy(UNIT[:3]))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1, 1, 1]


def test_images_are_flattened_row_by_row(tmp_path):
    images = RNG.integers(0, 256, (12, 4, 5)).astype(np.uint8)
    data = load(tmp_path, "x.npy", npy(images), scale="bytes")
    assert data.image_shape == (4, 5)
    assert torch.equal(rows(data).unique(dim=0), ordered(images.reshape(12, 20)).div(255))
    assert "scale: bytes" in data.source


@pytest.mark.parametrize(
    ("array", "divisor", "binary"),
    [
        (RNG.integers(0, 256, (20, 6)).astype(np.uint8), 255, False),
        (RNG.integers(0, 256, (20, 6)).astype(np.int64), 255, False),
        (RNG.integers(0, 2, (20, 6)).astype(np.uint8), 1, True),
        (RNG.integers(0, 2, (20, 6)).astype(bool), 1, True),
        (RNG.integers(0, 2, (20, 6)).astype(np.float64), 1, True),
        (RNG.random((20, 6)), 1, False),
        (RNG.random((20, 6)).astype(np.float16), 1, False),
        (np.asfortranarray(RNG.random((20, 6)).astype(">f4")), 1, False),
    ],
)
def test_kinds_of_numbers(tmp_path, array, divisor, binary):
    data = load(tmp_path, "x.npy", npy(array), scale="bytes" if divisor == 255 else "auto")
    assert torch.equal(rows(data).unique(dim=0), ordered(array.astype(np.float32)) / divisor)
    assert data.binary is binary
    assert data.image_shape is None


@pytest.mark.parametrize("key", ["validation", "valid", "val"])
def test_npz_with_parts_and_labels(tmp_path, key):
    parts = {"train": UNIT[:20], key: UNIT[20:25], "test": UNIT[25:]}
    content = npz(**parts, train_labels=np.arange(20, dtype=np.uint8), **{f"{key}_labels": np.arange(5)})
    data = load(tmp_path, "x.npz", content)
    assert torch.equal(data.train, torch.from_numpy(UNIT[:20]))
    assert torch.equal(data.validation, torch.from_numpy(UNIT[20:25]))
    assert torch.equal(data.test, torch.from_numpy(UNIT[25:]))
    assert data.train_labels.tolist() == list(range(20))
    assert data.validation_labels.tolist() == list(range(5))
    assert data.test_labels is None
    assert "split as in the file" in data.source


def test_npz_parts_are_scaled_alike(tmp_path):
    dark = np.array([[0, 1]], dtype=np.uint8)
    data = load(tmp_path, "x.npz", npz(train=dark * 200, val=dark, test=dark), scale="bytes")
    assert data.test.tolist() == [[0.0, pytest.approx(1 / 255)]]


def test_npz_with_one_array_and_labels(tmp_path):
    data = load(tmp_path, "x.npz", npz(faces=UNIT, labels=np.arange(30)))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(data, part), torch.from_numpy(UNIT)[getattr(data, f"{part}_labels")])


def test_any_names_of_an_archive(tmp_path):
    content = npz(X=UNIT, y=np.arange(30), note=np.arange(3))
    data = load(tmp_path, "x.npz", content)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(data, part), torch.from_numpy(UNIT)[getattr(data, f"{part}_labels")])
    assert "array 'X'; labels 'y'; not used: note" in data.source
    both = load(tmp_path, "x.npz", npz(a=UNIT, b=UNIT[:, :2]), array="b")
    assert both.dimension == 2
    with pytest.raises(DataError, match=r"there is no array 'c'; it has a \[30, 9\], b \[30, 2\]"):
        load_dataset(tmp_path / "x.npz", array="c")


def test_sparse_and_matlab(tmp_path):
    dense = (UNIT * (UNIT > 0.7)).astype(np.float32)
    for name, matrix in {"r": scipy.sparse.csr_matrix(dense), "c": scipy.sparse.csc_matrix(dense)}.items():
        scipy.sparse.save_npz(tmp_path / f"{name}.npz", matrix)
        data = load_dataset(tmp_path / f"{name}.npz")
        assert torch.equal(rows(data).unique(dim=0), ordered(dense))
        assert "a sparse matrix" in data.source
    scipy.io.savemat(tmp_path / "x.mat", {"X": UNIT.astype(float), "y": np.arange(30)[:, None]})
    data = load_dataset(tmp_path / "x.mat")
    assert torch.equal(data.train, torch.from_numpy(UNIT)[data.train_labels])
    huge = npz(
        data=np.ones(1), indices=np.zeros(1, int), indptr=np.array([0, 1]), shape=np.array([10**9, 10**9])
    )
    with pytest.raises(DataError, match=r"as a dense array .* more than this machine's memory"):
        load(tmp_path, "huge.npz", huge)
    lying = npz(data=np.ones(1), indices=np.array([7]), indptr=np.array([0, 1, 1]), shape=np.array([2, 3]))
    with pytest.raises(DataError, match=r"lying.npz: cannot be read"):
        load(tmp_path, "lying.npz", lying)


def test_colours_first_and_last(tmp_path):
    images = RNG.random((12, 4, 5, 3)).astype(np.float32)
    last = load(tmp_path, "last.npy", npy(images))
    first = load(tmp_path, "first.npy", npy(np.moveaxis(images, 3, 1)))
    assert last.image_shape == first.image_shape == (3, 4, 5)
    assert torch.equal(last.train, first.train)


SCALES = {
    "none": lambda train, values: values,
    "unit": lambda train, values: (values - train.min(0)) / (train.max(0) - train.min(0)),
    "standardise": lambda train, values: (values - train.mean(0)) / train.std(0),
}


@pytest.mark.parametrize("scale", SCALES)
def test_scales_are_computed_from_the_training_rows(tmp_path, scale):
    values = RNG.normal(3, 5, (40, 4))
    data = load(tmp_path, "x.npy", npy(values), scale=scale)
    raw = load(tmp_path, "x.npy", npy(values), scale="none")
    train = raw.train.double().numpy()
    for part in ("train", "validation", "test"):
        expected = SCALES[scale](train, getattr(raw, part).double().numpy())
        assert np.allclose(getattr(data, part), expected, atol=1e-5)
    if scale != "none":
        back = np.stack(list(data.columns.back(data.test).values()), 1)
        assert np.allclose(back, raw.test, atol=1e-4)
    assert data.image_shape is None or scale == "none"
    assert load(tmp_path, "x.npy", npy(values)).source.endswith("standardised by the training rows (--scale)")


def test_columns_of_zeros_and_ones_are_kept_and_found_from_all_rows(tmp_path):
    values = RNG.normal(3, 5, (40, 3))
    values[:, 1], values[:, 2] = np.arange(40) % 2, 0
    raw = load(tmp_path, "x.npy", npy(values), scale="none")
    held_out = values[:, 0].astype(np.float32) == raw.test[0, 0].numpy()
    values[held_out, 2] = 2.0  # in a test row alone
    data = load(tmp_path, "x.npy", npy(values))
    assert [each.kind for each in data.columns.columns] == ["real", "binary", "real"]
    assert torch.equal(data.train[:, 1], raw.train[:, 1])
    assert float(data.test[0, 2]) == 2.0


@pytest.mark.parametrize(
    "array", [RNG.integers(0, 241, (20, 4)), RNG.integers(1, 6, (20, 4)), np.eye(4, dtype=int) * 2]
)
def test_whole_numbers_are_not_guessed(tmp_path, array):
    words = "may be pixels, counts or classes; choose --scale bytes .*--scale none .*--scale standardise"
    with pytest.raises(DataError, match=words):
        load(tmp_path, "x.npy", npy(array))
    assert float(load(tmp_path, "x.npy", npy(array), scale="none").train.max()) <= array.max()
    assert load(tmp_path, "x.npy", npy(array), scale="none").image_shape is None  # no picture of 2 x 2 pixels
    features = load(tmp_path, "x.npz", npz(X=array, y=np.arange(len(array)) % 2))
    assert "standardised by the training rows" in features.source


# Refusals

NAN = UNIT.copy()
NAN[4, 7], NAN[9, 2] = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", npy(np.array([[0, 256]] * 4)), "whole numbers from 0 to 256 may be"),
        ("x.npy", npy(np.array([[-1, 200]] * 4)), "whole numbers from -1 to 200 may be"),
        ("x.npy", npy(NAN), "2 NaN or infinite of 270, the first in row 4, column 7"),
        ("x.npy", npy(NAN.reshape(30, 3, 3)), "the first in row 4, column 2, 1"),
        ("x.npy", npy(np.zeros((0, 5))), r"at least one value, got the shape \[0, 5\]"),
        ("x.npy", npy(np.zeros((5, 0))), r"at least one value, got the shape \[5, 0\]"),
        ("x.npy", npy(UNIT[:1]), "at least 3 rows to split into three parts, got 1"),
        (
            "x.npy",
            npy(UNIT[0]),
            r"expected an array \[N, D\], \[N, H, W\] or \[N, C, H, W\], got the shape \[9\]",
        ),
        ("x.npy", npy(np.float32(1)), r"got the shape \[\]"),
        ("x.npy", npy(np.zeros((2, 2, 2, 2))), r"got the shape \[2, 2, 2, 2\]"),
        ("x.npy", npy(np.array([["a", "b"]] * 3)), "expected numbers, got the dtype <U1"),
        ("x.npy", npy(UNIT * 1j), "expected numbers, got the dtype complex64"),
        ("x.npy", npy(np.array([[{}]] * 3), allow_pickle=True), "holding Python objects"),
        ("x.npy", pickle.dumps([1, 2]), "holding Python objects"),
        ("x.npy", b"", "cannot be read as .npy"),
        ("x.npy", npy(UNIT)[:-10], "cannot be read as .npy"),
        ("x.npy", npz(a=UNIT), "an archive of arrays; name it .npz"),
        ("x.npz", npy(UNIT), "one bare array; name it .npy"),
        ("x.npz", npz(a=UNIT)[:-30], "damaged"),
        ("x.npz", npz(a=UNIT).replace(b"\x93", b"\x94"), "damaged|cannot be read"),
        ("x.npz", b"PK no archive at all", "damaged|cannot be read"),
        ("x.npz", npz(), "a single one .*got none"),
        (
            "x.npz",
            npz(a=UNIT, b=UNIT),
            r"train, validation and test, or a single one .* got a \[30, 9\], b \[30, 9\]; choose one",
        ),
        ("x.npz", npz(train=UNIT, test=UNIT), "one array named validation or valid or val"),
        ("x.npz", npz(train=UNIT, val=UNIT, valid=UNIT, test=UNIT), "one array named validation or valid"),
        ("x.npz", npz(train=UNIT, val=UNIT), "one array named test"),
        ("x.npz", npz(train=UNIT, val=UNIT, test=UNIT[:, :4]), r"one shape, got .*test \[30, 4\]"),
        ("x.npz", npz(train=UNIT, val=NAN, test=UNIT), r"x\.npz, validation: expected finite"),
        ("x.npz", npz(train=UNIT, val=UNIT, test=UNIT, test_labels=np.arange(3)), r"int64 tensor \[30\]"),
        ("x.npz", npz(train=UNIT, val=UNIT, test=UNIT, test_labels=UNIT), "test labels: expected whole"),
        ("x.npz", npz(a=UNIT, labels=np.arange(3)), "expected 30 labels, one for each row, got 3"),
        ("x.npz", npz(a=UNIT, y=np.arange(29)), "expected 30 labels, one for each row, got 29"),
        ("x.npz", npz(a=UNIT, labels=np.array(["a"] * 30)), r"x\.npz, labels: expected whole numbers"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, name, content)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_a_damaged_member_of_an_archive(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", npy(UNIT))
    content = bytearray(file.getvalue())
    content[400] ^= 0xFF
    with pytest.raises(DataError, match=r"x\.npz: damaged file \(Bad CRC-32"):
        load(tmp_path, "x.npz", bytes(content))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.mat", "x.csv", "x.tsv"])
def test_a_missing_file_and_a_folder(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: no such file"):
        load_dataset(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"{name}: expected a file, got a folder"):
        load_dataset(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "x.csv").write_text("0\n1\n")
    words = r"x\.csv: cannot be read as \.csv \(Permission denied\)$"
    with pytest.raises(DataError, match=words), reading(tmp_path / "x.csv"):
        raise PermissionError(13, "Permission denied", "x.csv")


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_an_array_is_named_only_in_an_archive(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    rows = np.random.default_rng(0).random((30, 3))
    if suffix == "npy":
        np.save(path, rows)
    else:
        np.savetxt(path, rows, delimiter=",", header="a,b,c", comments="")
    with pytest.raises(InputError, match=r"^array: .*leave array out"):
        load_dataset(path, array="x")
