"""MNIST, Fashion-MNIST and Kuzushiji-MNIST, downloaded and parsed by torchvision."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset, is_binary, needs
from pyro_dvae.datasets.idx import IMAGES_MAGIC, LABELS_MAGIC, check_idx, unpack
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import DOWNLOAD_ERRORS, TIMEOUT, staging, unavailable
from pyro_dvae.errors import DataError

# Each name's class in torchvision, which is also its folder below the root.
CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def _load(name: str, request: Request) -> Dataset:
    needs("torchvision", "torchvision", name)
    raw = request.root / CLASSES[name] / "raw"
    how = "read from"
    if not all(_present(raw / file) for file in FILES):
        _fetch(name, request, raw)
        how = "downloaded by torchvision to"
    images, labels = _read(raw, "train", name)
    test_images, test_labels = _read(raw, "t10k", name)
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
    if not request.download:
        raise unavailable(name, request.root, layout)
    dataset = getattr(needs("torchvision.datasets", "torchvision", name), CLASSES[name])
    try:
        # Older torchvision prints each attempt; its progress bar goes to stderr and stays.
        with staging(request.root) as folder, _timeout(TIMEOUT), contextlib.redirect_stdout(io.StringIO()):
            dataset(str(folder), download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for file in FILES:
                if not _present(raw / file):
                    os.replace(folder / CLASSES[name] / "raw" / file, raw / file)
    except DOWNLOAD_ERRORS as error:
        raise unavailable(name, request.root, layout, error) from error


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Torchvision opens its connections without a limit: behind a silent firewall it would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(raw: Path, part: str, name: str) -> tuple[Tensor, Tensor]:
    parse = needs("torchvision.datasets.mnist", "torchvision", name)
    with _plain(raw / f"{part}-images-idx3-ubyte", IMAGES_MAGIC) as (path, shown):
        count, *_ = check_idx(path, IMAGES_MAGIC, shown)
        images = parse.read_image_file(str(path))
    with _plain(raw / f"{part}-labels-idx1-ubyte", LABELS_MAGIC) as (path, shown):
        (labelled,) = check_idx(path, LABELS_MAGIC, shown)
        if labelled != count:
            raise DataError(f"{shown}: expected {count} labels, one for each image, found {labelled}")
        labels = parse.read_label_file(str(path))
    return images, labels


def _scaled(images: Tensor) -> Tensor:
    return images.flatten(1).to(torch.float32).div_(255)


@contextlib.contextmanager
def _plain(file: Path, magic: int) -> Iterator[tuple[Path, Path]]:
    """The file unpacked, elsewhere if it has to be (the root may be read-only), and the file to blame."""
    if os.path.isfile(file):
        yield file, file
        return
    packed = Path(f"{file}.gz")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / file.name
        unpack(packed, target, magic)
        yield target, packed
