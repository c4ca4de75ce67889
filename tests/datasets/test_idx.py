import gzip
import struct

import pytest

from pyro_dvae.datasets.mnist import IMAGES_MAGIC, LABELS_MAGIC, check_idx, unpack
from pyro_dvae.errors import DataError


def images(count=2, height=3, width=4):
    return struct.pack(">4I", IMAGES_MAGIC, count, height, width) + bytes(count * height * width)


def labels(count=5):
    return struct.pack(">2I", LABELS_MAGIC, count) + bytes(count)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "some-idx"
        path.write_bytes(content)
        return path

    return write


def test_the_dimensions_come_from_the_header(write):
    assert check_idx(write(images()), IMAGES_MAGIC) == (2, 3, 4)
    assert check_idx(write(labels()), LABELS_MAGIC) == (5,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (images()[:-1], "some-idx: damaged IDX file, expected 40 bytes, found 39; delete it"),
        (images() + b"x", "expected 40 bytes, found 41"),
        (images()[:10], "expected at least 16 bytes, found 10"),
        (b"", "expected at least 16 bytes, found 0"),
        (labels(100), "magic number 2049 instead of 2051"),
        (b"<!DOCTYPE html><html>not found</html>", "not the IDX file expected here"),
        (images(count=0), r"empty IDX file, its header says \[0, 3, 4\]"),
    ],
)
def test_a_file_that_does_not_hold_what_it_says_is_refused(write, content, message):
    with pytest.raises(DataError, match=message) as error:
        check_idx(write(content), IMAGES_MAGIC)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_the_name_to_show(tmp_path):
    with pytest.raises(DataError, match=r"shown\.gz: cannot be read \(No such file"):
        check_idx(tmp_path / "absent", IMAGES_MAGIC, tmp_path / "shown.gz")


def test_unpack(tmp_path, write):
    packed = write(gzip.compress(images()))
    unpack(packed, tmp_path / "plain", IMAGES_MAGIC)
    assert (tmp_path / "plain").read_bytes() == images()


@pytest.mark.parametrize(
    "content",
    [gzip.compress(images())[:-5], b"no archive", gzip.compress(images())[:12]],
    # An archive contains its time of creation, so its hash would differ between the processes of one run.
    ids=["cut at the end", "no archive", "cut at the start"],
)
def test_a_damaged_archive_is_refused(tmp_path, write, content):
    with pytest.raises(DataError, match=rf"some-idx: damaged \.gz file of {len(content)} bytes") as error:
        unpack(write(content), tmp_path / "plain", IMAGES_MAGIC)
    assert "\n" not in str(error.value)
