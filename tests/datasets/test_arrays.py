import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from pyro_dvae.datasets import load_dataset
from pyro_dvae.errors import DataError

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
    assert "24 train, 3 validation, 3 test, by a permutation with seed 0; values as they are" in data.source
    other = load_dataset(tmp_path / "mine.npy", split_seed=1)
    assert not torch.equal(other.train, data.train)
    assert torch.equal(load_dataset(tmp_path / "mine.npy").train, data.train)


def test_three_rows_are_enough(tmp_path):
    data = load(tmp_path, "x.npy", npy(UNIT[:3]))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1, 1, 1]


def test_images_are_flattened_row_by_row(tmp_path):
    images = RNG.integers(0, 256, (12, 4, 5)).astype(np.uint8)
    data = load(tmp_path, "x.npy", npy(images))
    assert data.image_shape == (4, 5)
    assert torch.equal(rows(data).unique(dim=0), ordered(images.reshape(12, 20)).div(255))
    assert "divided by 255" in data.source


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
    data = load(tmp_path, "x.npy", npy(array))
    assert torch.equal(rows(data).unique(dim=0), ordered(array.astype(np.float32)) / divisor)
    assert data.binary is binary
    assert data.image_shape == (1, 6)


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
    data = load(tmp_path, "x.npz", npz(train=dark * 200, val=dark, test=dark))
    assert data.test.tolist() == [[0.0, pytest.approx(1 / 255)]]


def test_npz_with_one_array_and_labels(tmp_path):
    data = load(tmp_path, "x.npz", npz(faces=UNIT, labels=np.arange(30)))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(data, part), torch.from_numpy(UNIT)[getattr(data, f"{part}_labels")])


@pytest.mark.parametrize("header", ["", "a,b,c\n", "\ufeffa,b,c\n", '"a","b","c"\n', "\n\na,b,c\n"])
def test_csv_with_and_without_names(tmp_path, header):
    body = "0.1,0.2,0.3\n0.4,0.5,0.6\n\n0.7,0.8,0.9\n"
    data = load(tmp_path, "x.csv", header + body)
    assert torch.equal(rows(data).unique(dim=0), ordered(np.arange(1, 10).reshape(3, 3) / 10))


def test_csv_of_whole_numbers_is_divided(tmp_path):
    data = load(tmp_path, "x.CSV", "0,255\r\n51,102\r\n1,2")
    assert torch.equal(rows(data).unique(dim=0), torch.tensor([[0.0, 255], [1, 2], [51, 102]]) / 255)


def test_csv_with_one_column(tmp_path):
    assert load(tmp_path, "x.csv", "0\n1\n0\n1\n").dimension == 1


# Refusals

NAN = UNIT.copy()
NAN[4, 7], NAN[9, 2] = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", npy(UNIT * 2), r"expected values in \[0, 1\] .*got the range \[.*\]; rescale"),
        ("x.npy", npy(UNIT - 0.5), r"got the range \[-0\.\d+, 0\.\d+\]; rescale"),
        ("x.npy", npy(np.array([[0, 256]] * 4)), r"got the range \[0, 256\]"),
        ("x.npy", npy(np.array([[-1, 200]] * 4)), r"got the range \[-1, 200\]"),
        ("x.npy", npy(NAN), "2 NaN or infinite of 270, the first in row 4, column 7"),
        ("x.npy", npy(NAN.reshape(30, 3, 3)), "the first in row 4, column 2, 1"),
        ("x.npy", npy(np.zeros((0, 5))), r"at least one value, got the shape \[0, 5\]"),
        ("x.npy", npy(np.zeros((5, 0))), r"at least one value, got the shape \[5, 0\]"),
        ("x.npy", npy(UNIT[:1]), "at least 3 rows to split into three parts, got 1"),
        ("x.npy", npy(UNIT[0]), r"expected an array \[N, D\] or \[N, H, W\], got the shape \[9\]"),
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
        ("x.npz", npz(a=UNIT, b=UNIT), "train, validation and test, or a single one .* got a, b"),
        ("x.npz", npz(train=UNIT, test=UNIT), "one array named validation or valid or val beside train"),
        ("x.npz", npz(train=UNIT, val=UNIT, valid=UNIT, test=UNIT), "one array named validation or valid"),
        ("x.npz", npz(train=UNIT, val=UNIT), "one array named test"),
        ("x.npz", npz(train=UNIT, val=UNIT, test=UNIT[:, :4]), r"one shape, got .*test \[30, 4\]"),
        ("x.npz", npz(train=UNIT, val=NAN, test=UNIT), r"x\.npz, validation: expected finite"),
        ("x.npz", npz(train=UNIT, val=UNIT, test=UNIT, test_labels=np.arange(3)), r"int64 tensor \[30\]"),
        ("x.npz", npz(train=UNIT, val=UNIT, test=UNIT, test_labels=UNIT), "test labels: expected whole"),
        ("x.npz", npz(a=UNIT, labels=np.arange(3)), "expected 30 labels, one for each row, got 3"),
        ("x.npz", npz(a=UNIT, labels=np.array(["a"] * 30)), r"x\.npz, labels: expected whole numbers"),
        ("x.csv", "", "it holds no numbers"),
        ("x.csv", "a,b\n", "it holds no numbers"),
        ("x.csv", "\n\n", "it holds no numbers"),
        ("x.csv", "0,1\n1,0\n0\n", "line 3 has 1 values where 2 were expected"),
        ("x.csv", "a,b\n0,1\n1,x\n0,0\n", "line 3, column 2: expected a number, got 'x'"),
        ("x.csv", "0,1\n1,\n0,0\n", "line 2, column 2: expected a number, got ''"),
        ("x.csv", "0,x\n1,1\n0,0\n", "line 1, column 2: expected a number, got 'x'"),
        ("x.csv", "a,b\nc,d\n0,0\n", "line 2, column 1: expected a number, got 'c'"),
        ("x.csv", "0,1\n1,nan\n0,0\n", "1 NaN or infinite of 6, the first in row 1, column 1"),
        ("x.csv", "0.0,2.0\n1.0,0.0\n0.0,0.0\n", r"got the range \[0, 2\]"),
        ("x.csv", "0;1\n1;0\n0;0\n", "expected a number, got '1;0'"),
        ("x.csv", b"\xff\xfe\x00\x01", "cannot be read as .csv"),
        ("x.csv", "0,1\n", "at least 3 rows"),
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


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv"])
def test_a_missing_file_and_a_folder(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: no such file"):
        load_dataset(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"{name}: expected a file, got a folder"):
        load_dataset(tmp_path / name)
