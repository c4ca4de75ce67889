"""CIFAR-10: 60,000 colour photographs of ten kinds of things, 32 x 32 pixels."""

from __future__ import annotations

import os
import warnings
from functools import partial

import torch
from torch import Tensor

from pyro_dvae.datasets.base import Dataset, colour_set, needs
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
        with warnings.catch_warnings():  # of newer NumPy, about how the old pickles write a dtype
            warnings.filterwarnings("ignore", message=".*align should be passed as")
            parts = [cifar(str(request.root), train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(f"{folder}: damaged ({error}); delete the folder to download it again") from None
    (images, test), (labels, test_labels) = map(_rows, parts), (torch.tensor(each.targets) for each in parts)
    where = f"CIFAR-10, {how} {folder}"
    return colour_set("cifar10", (images, labels), (test, test_labels), where, "training files")


def _rows(part: object) -> Tensor:
    """Return the images [N, height, width, channels] of bytes as rows [N, D] in [0, 1], a channel each."""
    images = torch.from_numpy(part.data)  # type: ignore[attr-defined]
    return images.permute(0, 3, 1, 2).flatten(1).to(torch.float32).div_(255)
