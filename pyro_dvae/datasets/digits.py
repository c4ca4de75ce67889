"""Scikit-learn's handwritten digits: small, packaged with it, no network."""

from __future__ import annotations

import torch

from pyro_dvae.datasets.base import Dataset, needs, permuted_split
from pyro_dvae.datasets.registry import Request, register


@register("digits")
def load_digits(request: Request) -> Dataset:
    """Load the 1,797 digits of 8 x 8 pixels, split 70 / 15 / 15 by a seeded permutation."""
    bunch = needs("sklearn.datasets", "scikit-learn", "digits").load_digits()
    images = torch.from_numpy(bunch.data).to(torch.float32).div_(16)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    held_out = round(0.15 * len(images))
    sizes = (len(images) - 2 * held_out, held_out, held_out)
    train, validation, test = permuted_split(len(images), sizes, request.split_seed)
    return Dataset(
        name="digits",
        train=images[train],
        validation=images[validation],
        test=images[test],
        train_labels=labels[train],
        validation_labels=labels[validation],
        test_labels=labels[test],
        image_shape=(8, 8),
        binary=False,
        source=(
            f"handwritten digits packaged with scikit-learn; {sizes[0]} train, {held_out} validation, "
            f"{held_out} test by a permutation with seed {request.split_seed}; grey values divided by 16"
        ),
    )
