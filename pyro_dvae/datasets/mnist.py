"""MNIST, Fashion-MNIST and Kuzushiji-MNIST: downloaded by torchvision, checked and parsed."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset, is_binary, needs
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import fetch_by_torchvision
from pyro_dvae.errors import DataError
from pyro_dvae.machine import machine_memory

IMAGES_MAGIC = 2051  # unsigned bytes, three dimensions
LABELS_MAGIC = 2049  # unsigned bytes, one dimension


def check_idx(path: Path, magic: int, shown: Path | None = None) -> tuple[int, ...]:
    """Return the dimensions in the header; refuse a file that does not match its header.

    ``shown`` is the file to name in the error if ``path`` is an unpacked copy.
    """
    shown = shown or path
    try:
        found = os.path.getsize(path)
        with open(path, "rb") as file:
            dimensions = _dimensions(file, magic, shown, found)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror})") from None
    expected = _size(dimensions)
    if found != expected:
        raise DataError(f"{shown}: damaged IDX file, expected {expected} bytes, found {found}; {_remedy}")
    return dimensions


def unpack(packed: Path, target: Path, magic: int) -> None:
    """Unpack a .gz file to ``target``, up to one byte more than its header says.

    A file that unpacks to more, or to more than this machine's memory, is refused.
    """
    try:
        found = os.path.getsize(packed)
        with gzip.open(packed, "rb") as source, open(target, "wb") as file:
            expected = _size(_dimensions(source, magic, packed, found))
            if expected > (machine_memory() or math.inf):
                raise DataError(f"{packed}: holds {expected} bytes, more than this machine's memory")
            source.seek(0)
            left = expected + 1
            while left and (chunk := source.read(min(left, _CHUNK))):
                file.write(chunk)
                left -= len(chunk)
        if not left:
            raise DataError(f"{packed}: damaged IDX file, expected {expected} bytes, holds more; {_remedy}")
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{packed}: damaged .gz file of {found} bytes ({error}); {_remedy}") from None


def _dimensions(file: IO[bytes] | gzip.GzipFile, magic: int, shown: Path, found: int) -> tuple[int, ...]:
    sizes = magic % 256
    length = 4 * (1 + sizes)
    header = file.read(length)
    if len(header) < length:
        raise DataError(
            f"{shown}: damaged IDX file, expected at least {length} bytes, found {found}; {_remedy}"
        )
    number, *dimensions = struct.unpack(f">{1 + sizes}I", header)
    if number != magic:
        raise DataError(f"{shown}: not the IDX file expected here, magic number {number} instead of {magic}")
    if not math.prod(dimensions):
        raise DataError(f"{shown}: empty IDX file, its header says {dimensions}")
    return tuple(dimensions)


def _size(dimensions: tuple[int, ...]) -> int:
    """Return the bytes of a whole file."""
    return 4 * (1 + len(dimensions)) + math.prod(dimensions)


_CHUNK = 2**20
_remedy = "delete it to download it again"


# The class of each name in torchvision, which is also the folder below the root.
CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def _load(name: str, request: Request) -> Dataset:
    raw = request.root / CLASSES[name] / "raw"
    how = "read from"
    if not all(_present(raw / file) for file in FILES):
        _fetch(name, request, raw)
        how = "downloaded by torchvision to"
    images, labels = _read(raw, "train")
    test_images, test_labels = _read(raw, "t10k")
    shape = (images.shape[1], images.shape[2])
    images, test_images = _scaled(images), _scaled(test_images)
    held_out = max(1, len(images) // 6)
    kept = len(images) - held_out
    return Dataset(
        name=name,
        train=images[:kept],
        validation=images[kept:],
        test=test_images,
        train_labels=labels[:kept],
        validation_labels=labels[kept:],
        test_labels=test_labels,
        image_shape=shape,
        binary=is_binary(images, test_images),
        source=(
            f"{CLASSES[name]}, {how} {raw}; {kept} train and {held_out} validation (the last sixth of the "
            f"training file), {len(test_images)} test; grey values divided by 255"
        ),
    )


for _name in CLASSES:
    register(_name)(partial(_load, _name))


def _present(file: Path) -> bool:
    return os.path.isfile(file) or os.path.isfile(f"{file}.gz")


def _fetch(name: str, request: Request, raw: Path) -> None:
    layout = f"{CLASSES[name]}/raw/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte (or .gz)"
    dataset = getattr(needs("torchvision.datasets", "torchvision", name), CLASSES[name])
    missing = [f"{CLASSES[name]}/raw/{file}" for file in FILES if not _present(raw / file)]
    fetch_by_torchvision(name, request, layout, missing, partial(dataset, download=True))


def _read(raw: Path, part: str) -> tuple[Tensor, Tensor]:
    with _plain(raw / f"{part}-images-idx3-ubyte", IMAGES_MAGIC) as (path, shown):
        images = _values(path, IMAGES_MAGIC, shown)
    with _plain(raw / f"{part}-labels-idx1-ubyte", LABELS_MAGIC) as (path, shown):
        labels = _values(path, LABELS_MAGIC, shown).long()
        if len(labels) != len(images):
            raise DataError(
                f"{shown}: expected {len(images)} labels, one for each image, found {len(labels)}"
            )
    return images, labels


def _values(path: Path, magic: int, shown: Path) -> Tensor:
    """Return the bytes of a file without its header."""
    dimensions = check_idx(path, magic, shown)
    values = np.fromfile(path, np.uint8, offset=4 * (1 + len(dimensions)))
    return torch.from_numpy(values).reshape(dimensions)


def _scaled(images: Tensor) -> Tensor:
    return images.flatten(1).to(torch.float32).div_(255)


@contextlib.contextmanager
def _plain(file: Path, magic: int) -> Iterator[tuple[Path, Path]]:
    """Yield the unpacked file (elsewhere if the root is read-only), and the file to name in errors."""
    if os.path.isfile(file):
        yield file, file
        return
    packed = Path(f"{file}.gz")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / file.name
        unpack(packed, target, magic)
        yield target, packed
