"""Omniglot: 32,415 handwritten characters of 50 alphabets, 28 x 28 pixels, grey or with one binary draw."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import Form, fetch, read_mat

FILE = "chardata.mat"
URLS = tuple(
    f"https://{host}/master/datasets/OMNIGLOT/{FILE}"
    for host in ("raw.githubusercontent.com/yburda/iwae", "github.com/yburda/iwae/raw")
)
SIDE = 28
IMAGES: dict[str, Form] = {"data": ("real", (784, 24345)), "testdata": ("real", (784, 8070))}
TARGETS: dict[str, Form] = {"target": ("real", (50, 24345)), "testtarget": ("real", (50, 8070))}
VALIDATION = 1345
SPLIT_SEED, DRAW_SEED = 123, 5  # of NumPy's RandomState, whose stream is frozen


def _load(name: str, drawn: bool, request: Request) -> Dataset:
    """Load the file and split of Burda et al. (2016): 23,000 / 1,345 / 8,070.

    They binarised it at each visit (``binarisation="dynamic"``). The static draw is that of Tucker et al.
    (2017), who kept the first numbers of a seed.
    """
    path = request.root / FILE
    downloaded = fetch(name, request, {FILE: URLS}, lambda file: read_mat(name, file, IMAGES, TARGETS))
    content = read_mat(name, path, IMAGES, TARGETS)
    draw = _bernoulli(np.random.RandomState(DRAW_SEED)) if drawn else _unchanged
    # In the file an image is a column, in column-major order.
    images, test = (
        draw(content[part].T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1).reshape(-1, SIDE**2))
        for part in IMAGES
    )
    alphabets, test_alphabets = (
        torch.from_numpy(content[target].argmax(0)) if target in content else None for target in TARGETS
    )
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(images)))
    train, validation = order[:-VALIDATION], order[-VALIDATION:]
    how = f"made binary once, with the seed {DRAW_SEED} of Tucker et al. (2017)" if drawn else "grey values"
    return Dataset(
        name=name,
        train=images[train],
        validation=images[validation],
        test=test,
        train_labels=None if alphabets is None else alphabets[train],
        validation_labels=None if alphabets is None else alphabets[validation],
        test_labels=test_alphabets,
        image_shape=(SIDE, SIDE),
        binary=drawn,
        source=(
            f"Omniglot as of Burda et al. (2016), {'downloaded to' if downloaded else 'read from'} {path}; "
            f"{len(train)} train, {len(validation)} validation, {len(test)} test, as they split it; {how}; "
            "labels are alphabets"
        ),
    )


register("omniglot")(partial(_load, "omniglot", False))
register("binarised-omniglot")(partial(_load, "binarised-omniglot", True))


def _unchanged(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32))


def _bernoulli(random: np.random.RandomState) -> Callable[[np.ndarray], torch.Tensor]:
    def draw(images: np.ndarray) -> torch.Tensor:
        grey = images.astype(np.float32)
        return torch.from_numpy((random.rand(*grey.shape) < grey).astype(np.float32))

    return draw
