"""Binarised MNIST, as Larochelle and Murray (2011) published it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import fetch
from pyro_dvae.errors import DataError

NAME = "binarised-mnist"
SIDE = 28
SIZES = {"train": 50000, "valid": 10000, "test": 10000}
BASE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"


@register(NAME)
def load_binarised_mnist(request: Request) -> Dataset:
    """Load the draw of Salakhutdinov and Murray (2008), which published bounds of "fixed" MNIST use."""
    files = {part: f"binarized_mnist_{part}.amat" for part in SIZES}
    urls = {file: (f"{BASE}/{file}",) for file in files.values()}
    downloaded = fetch(NAME, request, urls, _read)
    parts = {
        part: torch.from_numpy(_read(request.root / file)).to(torch.float32) for part, file in files.items()
    }
    return Dataset(
        name=NAME,
        train=parts["train"],
        validation=parts["valid"],
        test=parts["test"],
        train_labels=None,
        validation_labels=None,
        test_labels=None,
        image_shape=(SIDE, SIDE),
        binary=True,
        source=(
            f"MNIST made binary once by Larochelle and Murray (2011), "
            f"{'downloaded to' if downloaded else 'read from'} {request.root}; "
            f"{SIZES['train']} train, {SIZES['valid']} validation, {SIZES['test']} test, by file"
        ),
    )


def _read(path: Path) -> np.ndarray:
    """Return a file's rows [N, D] of zeros and ones, written as text, one row per line."""
    try:
        text = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    digit = (text == ord("0")) | (text == ord("1"))
    blank = (text == ord(" ")) | (text == ord("\r")) | (text == ord("\n"))
    if not (digit | blank).all() or (digit[1:] & digit[:-1]).any():
        raise DataError(f"{path}: expected lines of 0 and 1 with spaces between, found other text; {_REMEDY}")
    part = path.stem.rpartition("_")[2]
    # Number of digits before the end of each line that has any.
    before = np.unique(np.append(digit.cumsum()[text == ord("\n")], digit.sum()))
    lengths = np.diff(before, prepend=0)
    rows = int((lengths > 0).sum())
    if rows != SIZES[part] or (lengths[lengths > 0] != SIDE**2).any():
        raise DataError(
            f"{path}: expected {SIZES[part]} lines of {SIDE**2} digits, found {rows} lines of "
            f"{int(digit.sum())} digits in all; {_REMEDY}"
        )
    return (text[digit] - ord("0")).reshape(rows, SIDE**2)


_REMEDY = "delete it to download it again"
