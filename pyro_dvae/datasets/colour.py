"""Colour photographs of 32 x 32 pixels: CIFAR-10 and the Street View House Numbers."""

from __future__ import annotations

import os
import warnings
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset, is_binary, needs
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import fetch_by_torchvision
from pyro_dvae.errors import DataError


@register("cifar10")
def load_cifar10(request: Request) -> Dataset:
    """Load CIFAR-10 (Krizhevsky 2009), real-valued, split 45,000 / 5,000 / 10,000.

    The validation part is the last tenth of the training files, whose rows are in random order. The files
    are pickles, so torchvision compares each with its published checksum before it reads it.
    """
    cifar = needs("torchvision.datasets", "torchvision", "cifar10").CIFAR10
    names = [name for name, _ in (*cifar.train_list, *cifar.test_list)] + [cifar.meta["filename"]]
    files = [f"{cifar.base_folder}/{name}" for name in names]
    folder = request.root / cifar.base_folder
    how = "read from"
    if not all(os.path.isfile(request.root / file) for file in files):
        layout = f"the folder {cifar.base_folder}"
        fetch_by_torchvision("cifar10", request, layout, files, partial(cifar, download=True))
        how = "downloaded by torchvision to"
    try:
        with warnings.catch_warnings():  # newer NumPy warns about the dtypes in old pickles
            warnings.filterwarnings("ignore", message=".*align should be passed as")
            parts = [cifar(str(request.root), train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(f"{folder}: damaged ({error}); delete the folder to download it again") from None
    (images, test), (labels, test_labels) = map(_rows, parts), (torch.tensor(each.targets) for each in parts)
    where = f"CIFAR-10, {how} {folder}"
    return _set("cifar10", (images, labels), (test, test_labels), where, "training files")


def _rows(part: object) -> Tensor:
    """Return images [N, height, width, channels] of bytes as rows [N, D] in [0, 1], channel by channel."""
    images = torch.from_numpy(part.data)  # type: ignore[attr-defined]
    return images.permute(0, 3, 1, 2).flatten(1).to(torch.float32).div_(255)


@register("svhn")
def load_svhn(request: Request) -> Dataset:
    """Load the cropped digits of Netzer et al. (2011), real-valued, split 65,932 / 7,325 / 26,032.

    The validation part is the last tenth of the training file; the file "extra" is not used. Torchvision
    compares each file with its published checksum.
    """
    svhn = needs("torchvision.datasets", "torchvision", "svhn").SVHN
    needs("scipy.io", "scipy", "svhn")
    files = [svhn.split_list[part][1] for part in ("train", "test")]
    how = "read from"
    if missing := [file for file in files if not os.path.isfile(request.root / file)]:

        def download(folder: str) -> None:
            for part in ("train", "test"):
                if svhn.split_list[part][1] in missing:
                    svhn(folder, split=part, download=True)

        fetch_by_torchvision("svhn", request, " and ".join(files), missing, download)
        how = "downloaded by torchvision to"
    try:
        parts = [svhn(str(request.root), split=part) for part in ("train", "test")]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{request.root}: damaged {' or '.join(files)} ({error}); delete it to download it again"
        ) from None
    images, test = (
        torch.from_numpy(np.ascontiguousarray(part.data)).flatten(1).to(torch.float32).div_(255)
        for part in parts
    )
    labels, test_labels = (torch.from_numpy(np.atleast_1d(part.labels)) for part in parts)
    where = f"Street View House Numbers, {how} {request.root}"
    return _set("svhn", (images, labels), (test, test_labels), where, "training file")


def _set(
    name: str, training: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], where: str, files: str
) -> Dataset:
    """Return a set of 32 x 32 colour images; its validation part is the last tenth of the training rows.

    :param training: rows [N, 3072] in [0, 1], and their classes [N].
    :param test: test rows and classes.
    :param where: the set and its path, for ``source``.
    :param files: the files of the training rows, for ``source``.
    """
    images, labels = training
    held_out = max(1, len(images) // 10)
    kept = len(images) - held_out
    return Dataset(
        name=name,
        train=images[:kept],
        validation=images[kept:],
        test=test[0],
        train_labels=labels[:kept],
        validation_labels=labels[kept:],
        test_labels=test[1],
        image_shape=(3, 32, 32),
        binary=is_binary(images, test[0]),
        source=(
            f"{where}; {kept} train and {held_out} validation (the last tenth of the {files}), "
            f"{len(test[0])} test; red, green and blue values divided by 255"
        ),
    )
