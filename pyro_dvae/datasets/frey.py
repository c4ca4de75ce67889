"""The Frey faces: 1,965 frames of one face, 28 x 20 grey values."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from pyro_dvae.datasets.base import Dataset, permuted_split
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import fetch, read_mat
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

    The paper names 200 test images, more than remain. The file is a video in order of time, so its end would
    have another distribution. Hence the split is a random permutation, with all remaining images in the test
    part.
    """
    path = request.root / FILE
    downloaded = fetch("frey", request, {FILE: URLS}, _check)
    how = "downloaded from cs.nyu.edu to" if downloaded else "read from"
    published = _sha256(path) == SHA256
    found = read_mat("frey", path, {"ff": ("uint8", SHAPE)}, size=BYTES)["ff"]
    faces = torch.from_numpy(np.ascontiguousarray(found.T)).to(torch.float32).div_(255)
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


def _check(path: Path) -> None:
    if _sha256(path) != SHA256:
        raise DataError(f"{os.path.getsize(path)} bytes with the wrong checksum")


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
