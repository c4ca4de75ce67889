"""A rewrite of recorded graphs: matrix products in bfloat16."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.recording.matmul import fast_products
from pyro_dvae.recording.record import noted

_TURNS = 20
_SIZES = (128, 784, 256)  # of the product that is timed


def use_bfloat16_products(graph: GraphModule) -> int:
    """Round the factors of every float32 matrix product to bfloat16, in place; return how many there are.

    The products are added up in float32 and handed on in bfloat16's eight bits: an error of about 0.4 %
    of each result. All else stays in float32. A processor without bfloat16 emulates it, ten times slower than
    float32: where a product that is timed once does not gain, nothing is changed, with one warning.
    """
    aten = torch.ops.aten
    replacements = {aten.addmm.default: _addmm, aten.mm.default: _mm, aten.bmm.default: _bmm}
    found = 0
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in replacements or node.kwargs:
            continue
        value = noted(node)
        if value is not None and value.dtype == torch.float32:
            if value.device.type == "cpu" and not pays():
                return 0
            node.target = replacements[node.target]
            found += 1
    graph.recompile()
    return found


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _mm(a, b) + bias


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a.to(torch.bfloat16), b.to(torch.bfloat16)).float()


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.to(torch.bfloat16), b.to(torch.bfloat16)).float()


@functools.cache
def pays() -> bool:
    """Return whether products of rounded factors take less time on this processor; warn if not.

    Measured once in a process, in a fraction of a second.
    """
    a, b = torch.ones(_SIZES[:2]), torch.ones(_SIZES[1:])
    with torch.no_grad(), fast_products():
        full, half = _seconds(lambda: torch.mm(a, b)), _seconds(lambda: _mm(a, b))
    if half < full:
        return True
    warnings.warn(
        f"bfloat16: a matrix product takes {half / full:.1f} times as long as in float32 on this processor; "
        "products stay in float32",
        stacklevel=2,
    )
    return False


def _seconds(product: Callable[[], Tensor]) -> float:
    """Return the least time of several runs: what the machine does besides only adds to it."""
    taken = []
    for _ in range(_TURNS):
        began = time.perf_counter()
        product()
        taken.append(time.perf_counter() - began)
    return min(taken)
