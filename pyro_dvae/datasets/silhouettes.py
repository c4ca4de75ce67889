"""The Caltech-101 silhouettes: 8,671 binary outlines of objects, 28 x 28 pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import Form, fetch, read_mat

FILE = "caltech101_silhouettes_28_split1.mat"
URL = f"https://people.cs.umass.edu/~marlin/data/{FILE}"
SIDE = 28
SIZES = {"train": 4100, "val": 2264, "test": 2307}
FORMS: dict[str, Form] = {
    **{f"{part}_data": ("uint8", (rows, SIDE**2)) for part, rows in SIZES.items()},
    **{f"{part}_labels": ("uint8", (rows, 1)) for part, rows in SIZES.items()},
}
NAME = "caltech101-silhouettes"


@register(NAME)
def load_silhouettes(request: Request) -> Dataset:
    """Load the silhouettes of Marlin et al. (2010), split 4,100 / 2,264 / 2,307 as in their file.

    In the file, objects are 0 and images are in column-major order. Here objects are 1 and images are
    upright, as in the literature on importance weighting.
    """
    path = request.root / FILE
    downloaded = fetch(NAME, request, {FILE: (URL,)}, lambda file: read_mat(NAME, file, FORMS))
    content = read_mat(NAME, path, FORMS)
    parts = {part: _upright(1 - content[f"{part}_data"]) for part in SIZES}
    labels = {part: torch.from_numpy(content[f"{part}_labels"].astype(np.int64)[:, 0] - 1) for part in SIZES}
    return Dataset(
        name=NAME,
        train=parts["train"],
        validation=parts["val"],
        test=parts["test"],
        train_labels=labels["train"],
        validation_labels=labels["val"],
        test_labels=labels["test"],
        image_shape=(SIDE, SIDE),
        binary=True,
        source=(
            f"Caltech-101 silhouettes, {'downloaded to' if downloaded else 'read from'} {path}; "
            f"{SIZES['train']} train, {SIZES['val']} validation, {SIZES['test']} test as in the file; "
            "objects are 1, the background is 0"
        ),
    )


def _upright(images: np.ndarray) -> Tensor:
    """Swap rows and columns of images [N, D]."""
    swapped = images.reshape(-1, SIDE, SIDE).transpose(0, 2, 1).reshape(-1, SIDE**2)
    return torch.from_numpy(swapped.astype(np.float32))
