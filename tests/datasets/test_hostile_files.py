"""Files made to run code, to fill memory or the disk, or to block: refused at once, in one line."""

import gzip
import io
import os
import pickle
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_dvae as dv
from pyro_dvae.checkpoint import load_checkpoint, load_parameters
from pyro_dvae.datasets.mnist import IMAGES_MAGIC, unpack


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("/tmp/pyro_dvae_was_run",)


def header(description):
    text = description.encode().ljust(118 - 10 + 9) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(**entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def promising(shape):
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")


OBJECTS = npy(np.array([[Bomb()]], dtype=object))
HOSTILE = {
    "objects.npy": OBJECTS,
    "pickle.npy": pickle.dumps(Bomb()),
    "pickle.npz": pickle.dumps(Bomb()),
    "pickle.csv": pickle.dumps(Bomb()),
    "objects.npz": npz(**{"a.npy": OBJECTS}),
    "member.npz": npz(**{"a.pkl": pickle.dumps(Bomb())}),
    "traversal.npz": npz(**{"..__..__evil.npy": npy(np.ones((3, 2))), "..__b.npy": npy(np.ones((3, 2)))}),
    "token.npy": header("{'descr': '<f4', 'shape': (3, 2"),
    "code.npy": header("__import__('os').mkdir('/tmp/pyro_dvae_was_run')"),
    "nested.npy": header("(" * 100),
    "huge.npy": promising((10**6, 10**6)) + bytes(100),
    "negative.npy": promising((-3, 2)) + bytes(24),
    "overflow.npy": promising((2**40, 2**40)) + bytes(24),
    "huge.npz": npz(**{"a.npy": promising((10**6, 10**6)) + bytes(100)}),
    "packed.npz": npz(**{"a.npy": promising((3, 2)) + bytes(2**24)}),
    "text.npy": npy(np.array([["a", "b"]])),
    "dates.npy": npy(np.array([["2020-01-01"]], dtype="datetime64[D]")),
    "records.npy": npy(np.zeros((3, 2), dtype=[("a", "f4"), ("b", "f4")])),
    "complex.npy": npy(np.ones((3, 2), dtype=complex)),
    "wide.csv": b"1," * 200_000 + b"x\n",
    "nul.csv": b"1,2\n\0,3\n",
    "field.csv": b'"' + b"1" * 300_000 + b"\n",
}


@pytest.fixture(autouse=True)
def _nothing_is_run():
    yield
    assert not Path("/tmp/pyro_dvae_was_run").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_data_files_are_refused_in_one_line(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(dv.DataError) as caught:
        dv.load_dataset(path)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".safetensors"])
def test_pipes_and_devices_are_not_waited_for(suffix, tmp_path):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    read = load_checkpoint if suffix == ".safetensors" else dv.load_dataset
    began = time.monotonic()
    for name, kind in (("pipe", "a pipe"), ("device", "a device")):
        with pytest.raises(dv.InputError, match=kind):
            read(tmp_path / f"{name}{suffix}")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("size", [2**26, 100])
def test_a_gzip_bomb_is_bounded_by_its_own_header(size, tmp_path):
    content = struct.pack(">4I", IMAGES_MAGIC, 1, 2, 2) + bytes(size)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(dv.DataError, match="expected 20 bytes, holds more"):
        unpack(packed, tmp_path / "plain", IMAGES_MAGIC)
    assert (tmp_path / "plain").stat().st_size == 21


def test_an_idx_header_beyond_the_memory_unpacks_nothing(tmp_path):
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(struct.pack(">4I", IMAGES_MAGIC, 2**31, 2**31, 2**31) + bytes(2**20)))
    with pytest.raises(dv.DataError, match="more than this machine's memory"):
        unpack(packed, tmp_path / "plain", IMAGES_MAGIC)
    assert (tmp_path / "plain").stat().st_size == 0


LONG = "x" * 5000
PATHS = ["", "~nouser-here/x", LONG, f"{LONG}.npy", "a\0b", "a\0b.npy", "~nouser-here/x.npy"]


@pytest.mark.parametrize("text", PATHS, ids=[repr(each)[:9] for each in PATHS])
def test_paths_that_cannot_be_are_refused_in_one_line(text, tmp_path):
    data = torch.rand(4, 2)
    calls = [
        lambda: dv.load_dataset(text),
        lambda: dv.load_dataset("mnist", text, download=False),
        lambda: load_checkpoint(text),
        lambda: load_parameters(text),
        lambda: dv.fit(print, print, data, loss=dv.TraceDenoising_ELBO(), checkpoint=text),
        lambda: dv.fit(print, print, data, loss=dv.TraceDenoising_ELBO(), metrics=text),
    ]
    for call in calls:
        with pytest.raises(dv.InputError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


FORGED = {
    "pickle": pickle.dumps(Bomb()),
    "old pickle": pickle.dumps(Bomb(), protocol=0),
    "header": struct.pack("<Q", 2**62) + b"{}",
    "short": struct.pack("<Q", 100) + b"{}",
    "nested": struct.pack("<Q", 20_000) + b"[" * 20_000,
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_checkpoints_run_nothing(name, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(FORGED[name])
    with pytest.raises(dv.CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
