"""The faster of two libraries for float32 matrix products on a CPU, where it is as exact."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_ALLOWED_ERROR = 1e-4  # of a sum of 200 products of standard normals: ten times float32's, 1/1000 of bf16's


@contextmanager
def fast_products() -> Iterator[None]:
    """Let oneDNN do float32 matrix products on the CPU while the body runs, if they keep float32's error.

    torch's setting that hands the products to oneDNN also permits it bfloat16, which a CPU with matrix
    units may then use; one small product shows whether it does. The setting is put back on leaving.
    """
    matmul = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    if matmul is None or not hasattr(matmul, "fp32_precision") or not torch.backends.mkldnn.is_available():
        yield
        return
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        if not _exact():
            matmul.fp32_precision = before
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def _exact() -> bool:
    """Whether oneDNN, permitted bfloat16, still multiplies in float32; found once for the machine."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 200, generator=generator) for _ in range(2))
    product: Tensor = a @ b.T
    return bool((product - (a.double() @ b.double().T)).abs().max() < _ALLOWED_ERROR)
