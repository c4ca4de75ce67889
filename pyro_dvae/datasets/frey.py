"""The Frey faces: 1,965 frames of one face, 28 x 20 grey values."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from pyro_dvae.datasets.base import Dataset, needs, permuted_split
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import DOWNLOAD_ERRORS, TIMEOUT, staging, unavailable
from pyro_dvae.errors import DataError

FILE = "frey_rawface.mat"
URLS = (f"https://cs.nyu.edu/~roweis/data/{FILE}", f"https://www.cs.nyu.edu/~roweis/data/{FILE}")
SHA256 = "f9fb85fb2340193176163c1fd9a64c13c8fb8d387bba6a2d47e1c116d362974f"
BYTES = 996854
IMAGE_SHAPE = (28, 20)
SHAPE = (560, 1965)
SIZES = (1572, 295, 98)


@register("frey")
def load_frey(request: Request) -> Dataset:
    """Load the Frey faces, real-valued, split 1,572 / 295 / 98.

    The paper names 200 test images, more than remain; and the file is a video in order of time, so its
    end would be a distribution of its own. Hence a random permutation, with all that remains as the test.
    """
    scipy_io = needs("scipy.io", "scipy", "frey")
    path = request.root / FILE
    how = "read from"
    if not os.path.isfile(path):
        _fetch(request, path)
        how = "downloaded from cs.nyu.edu to"
    published = _sha256(path) == SHA256
    faces = torch.from_numpy(_read(scipy_io, path)).to(torch.float32).div_(255)
    train, validation, test = (faces[rows] for rows in permuted_split(len(faces), SIZES, request.split_seed))
    return Dataset(
        name="frey",
        train=train,
        validation=validation,
        test=test,
        train_labels=None,
        validation_labels=None,
        test_labels=None,
        image_shape=IMAGE_SHAPE,
        binary=False,
        source=(
            f"Frey faces, {how} {path}{'' if published else ' (not byte for byte the published file)'}; "
            f"{SIZES[0]} train, {SIZES[1]} validation, {SIZES[2]} test (the rest; the paper says 200), "
            f"disjoint by a permutation with seed {request.split_seed}; grey values divided by 255"
        ),
    )


def _read(scipy_io: ModuleType, path: Path) -> np.ndarray:
    try:
        content = scipy_io.loadmat(str(path))
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        found = os.path.getsize(path)
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: damaged .mat file, expected {BYTES} bytes, found {found} ({cause}); "
            "delete it to download it again"
        ) from None
    faces = content.get("ff")
    if faces is None or faces.shape != SHAPE or faces.dtype != np.uint8:
        found_there = "no 'ff'" if faces is None else f"'ff' of {faces.dtype} {list(faces.shape)}"
        raise DataError(f"{path}: expected an array 'ff' of uint8 {list(SHAPE)}, found {found_there}")
    return np.ascontiguousarray(faces.T)


def _fetch(request: Request, path: Path) -> None:
    if not request.download:
        raise unavailable("frey", request.root, FILE)
    try:
        with staging(request.root) as folder:
            content = _download()
            (folder / FILE).write_bytes(content)
            os.replace(folder / FILE, path)
    except DOWNLOAD_ERRORS as error:
        raise unavailable("frey", request.root, FILE, error) from error


def _download() -> bytes:
    failures = []
    for url in URLS:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                content: bytes = response.read()
        except DOWNLOAD_ERRORS as error:
            failures.append(f"{url}: {str(error) or type(error).__name__}")
            continue
        if hashlib.sha256(content).hexdigest() == SHA256:
            return content
        failures.append(f"{url}: {len(content)} bytes with the wrong checksum")
    raise RuntimeError("; ".join(failures))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
