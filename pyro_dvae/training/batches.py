"""The order of the mini-batches, and a fingerprint that tells data sets apart."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.random_state import derived_seed

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def data_tensor(argument: str, value: Any) -> Tensor:
    """Return ``value`` without a graph, or refuse what is not a tensor of finite rows."""
    return checks.data(argument, value).detach()


def same_type(argument: str, value: Tensor, train: Tensor) -> None:
    """Refuse data of another number type than the training data's."""
    if value.dtype != train.dtype:
        raise InputError(f"{argument}: expected {train.dtype}, as train has, got {value.dtype}")


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation of the rows: a pure function of the three arguments, apart from global state."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch, "order"))
    return torch.randperm(rows, generator=generator)


def fingerprint(data: Tensor) -> dict[str, Any]:
    """Return the shape, type, digest of the first and last row, and sum of the bits of ``data``."""
    contiguous = data.detach().contiguous()
    ends = torch.stack([contiguous[0], contiguous[-1]]).cpu().reshape(-1).view(torch.uint8)
    bits = contiguous.reshape(-1).view(_INTEGERS.get(data.element_size(), torch.uint8))
    return {
        "shape": list(data.shape),
        "dtype": str(data.dtype).removeprefix("torch."),
        "rows": hashlib.sha256(ends.numpy().data).hexdigest()[:16],
        "sum": int(bits.sum(dtype=torch.int64)),
    }
