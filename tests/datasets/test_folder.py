"""``folder:PATH``: images by class in sub-folders."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_dvae.datasets import is_file_name, load_dataset
from pyro_dvae.datasets.registry import absolute_name
from pyro_dvae.errors import DataError, InputError

Image = pytest.importorskip("PIL.Image")


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def grey(index, shape=(2, 3)):
    return np.full(shape, index, dtype=np.uint8)


@pytest.fixture
def letters(tmp_path):
    """Twenty grey images, file n of the value n; a's are even."""
    for index in range(20):
        save(tmp_path / "letters" / "ba"[index % 2 == 0] / "deep" / f"{index:02d}.png", grey(index))
    return tmp_path / "letters"


def test_every_image_is_in_one_part_with_the_label_of_its_folder(letters):
    (letters / ".hidden").mkdir()
    save(letters / ".hidden" / "x.png", grey(99))
    (letters / "a" / "notes.txt").write_text("text")
    data = load_dataset(f"folder:{letters}")
    parts = [data.train, data.validation, data.test]
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert [len(part) for part in parts] == [16, 2, 2]
    values = (torch.cat(parts)[:, 0] * 255).round().int()
    assert sorted(values.tolist()) == list(range(20))
    assert torch.equal(labels, values % 2)
    assert (data.name, data.image_shape, data.binary) == ("letters", (2, 3), False)
    assert (
        "2 classes by sub-folder: a, b; 1 other files left out; 16 train, 2 validation, 2 test" in data.source
    )


def test_the_seed_of_the_split(letters):
    first, again, other = (load_dataset(f"folder:{letters}", split_seed=seed) for seed in (0, 0, 5))
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.train, other.train)


def test_colour_is_a_channel_after_the_other_and_grey_files_join(tmp_path):
    values = np.random.RandomState(0).randint(256, size=(2, 2, 3, 3)).astype(np.uint8)
    save(tmp_path / "a" / "0.png", values[0])
    save(tmp_path / "a" / "1.ppm", values[1])
    save(tmp_path / "a" / "2.png", grey(51))
    data = load_dataset(f"folder:{tmp_path}")
    rows = torch.cat([data.train, data.validation, data.test])
    rows = rows[rows.sum(1).argsort()].reshape(3, *data.image_shape)
    expected = np.stack([grey(51)[None].repeat(3, 0), *values.transpose(0, 3, 1, 2)])
    expected = expected[expected.reshape(3, -1).astype(int).sum(1).argsort()]
    assert data.image_shape == (3, 2, 3)
    assert torch.allclose(rows, torch.from_numpy(expected / 255).float())


@pytest.mark.parametrize(
    ("values", "top"),
    [
        (np.eye(4, dtype=bool), 1.0),
        (np.eye(4, dtype=np.uint8) * 255, 1.0),
        (np.eye(4, dtype=np.uint16) * 65535, 1.0),
        (np.stack([grey(102, (4, 4)), grey(255, (4, 4))], 2), 0.4),
        (np.stack([grey(102, (4, 4))] * 3 + [grey(255, (4, 4))], 2), 0.4),
    ],
    ids=["1 bit", "8 bits", "16 bits", "opaque grey", "opaque colour"],
)
def test_kinds_of_images(tmp_path, values, top):
    for index in range(3):
        save(tmp_path / f"{index}.png", values)
    data = load_dataset(f"folder:{tmp_path}")
    assert float(data.test.max()) == pytest.approx(top)
    assert data.binary == (top == 1.0)
    assert data.train_labels is None
    assert "no sub-folders, so no labels" in data.source


def test_a_palette_is_looked_up(tmp_path):
    for index in range(3):
        save(tmp_path / "colours.png", np.full((2, 2, 3), [255, 0, 51], dtype=np.uint8))
        Image.open(tmp_path / "colours.png").convert("P", palette=1).save(tmp_path / f"{index}.png")
    (tmp_path / "colours.png").unlink()
    test = load_dataset(f"folder:{tmp_path}").test.reshape(3, 4)
    assert torch.allclose(test, torch.tensor([[1.0], [0.0], [0.2]]).expand(3, 4))


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    values = np.zeros((8, 16), dtype=np.uint8)
    values[:, 8:] = 255
    for index in range(3):
        save(tmp_path / f"{index}.jpg", values, exif=exif, quality=100)
    data = load_dataset(f"folder:{tmp_path}")
    assert data.image_shape == (16, 8)
    assert torch.equal(data.test.reshape(16, 8).round(), torch.from_numpy(values.T / 255).float())


def other_size(folder):
    save(folder / "a" / "other.png", grey(0, (3, 3)))


def beside(folder):
    save(folder / "other.png", grey(0))


def damaged(folder):
    (folder / "a" / "other.png").write_bytes(b"\x89PNG\r\n\x1a\nno")


def text(folder):
    (folder / "a" / "other.jpg").write_text("<html>")


def transparent(folder):
    save(folder / "a" / "other.png", np.stack([grey(0)] * 3 + [grey(9)], 2))


def real(folder):
    save(folder / "a" / "other.tif", np.zeros((2, 3), dtype=np.float32))


def film(folder):
    frames = [Image.fromarray(grey(index)) for index in range(3)]
    frames[0].save(folder / "a" / "other.tif", save_all=True, append_images=frames[1:])


def parts(folder):
    save(folder / "Test" / "other.png", grey(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_size,
            r"expected images of one size, got 20 of 2 x 3 and 1 others, a.other\.png of 3 x 3; resize",
        ),
        (beside, r"expected all images in sub-folders, .* got 1 of 21 next to the sub-folders"),
        (damaged, r"other\.png: cannot be read as an image .*repair or remove it"),
        (text, r"other\.jpg: cannot be read as an image"),
        (transparent, r"other\.png: .*got Pillow's mode RGBA with transparency; convert it first"),
        (real, r"other\.tif: expected grey or red, .* got Pillow's mode F; convert it first"),
        (film, r"other\.tif: cannot be read as an image \(it holds 3 pictures\)"),
        (parts, r"got Test, which would be a part; give the folder of one part"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(letters, change, message):
    change(letters)
    with pytest.raises(DataError, match=message) as error:
        load_dataset(f"folder:{letters}")
    assert "\n" not in str(error.value)


def test_no_images(tmp_path):
    with pytest.raises(DataError, match=r"absent: no such folder"):
        load_dataset(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="got a file"):
        load_dataset(f"folder:{save(tmp_path / 'x.png', grey(0))}")
    with pytest.raises(DataError, match=r"expected at least 3 images .* got 1"):
        load_dataset(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="dataset: expected a path"):
        load_dataset("folder:")


def test_a_folder_that_takes_too_much_memory_is_refused_before_it_is_read(letters, monkeypatch):
    monkeypatch.setattr("pyro_dvae.datasets.folder.machine_memory", lambda: 479)
    with pytest.raises(DataError, match="take 480 bytes, more than this machine's memory"):
        load_dataset(f"folder:{letters}")


def test_its_name_is_no_file_and_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_file_name("folder:images.npy")
    assert absolute_name("folder:images.npy") == f"folder:{tmp_path / 'images.npy'}"
    assert absolute_name("images.npy") == str(tmp_path / "images.npy")
    assert absolute_name("mnist") == "mnist"
    home = Path(os.path.expanduser("~"))
    assert absolute_name("folder:~/images") == f"folder:{home / 'images'}"
