"""Street View House Numbers: 99,289 colour photographs of digits, 32 x 32 pixels."""

from __future__ import annotations

import os

import numpy as np
import torch

from pyro_dvae.datasets.base import Dataset, colour_set, needs
from pyro_dvae.datasets.registry import Request, register
from pyro_dvae.datasets.staging import fetch_by_torchvision
from pyro_dvae.errors import DataError


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
    return colour_set("svhn", (images, labels), (test, test_labels), where, "training file")
