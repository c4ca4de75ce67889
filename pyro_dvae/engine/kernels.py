"""Faster forms of recorded operations: matrix products, sums of Bernoulli log-probabilities, log(1 + x)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_dvae.engine.gradient import drop_unused, noted
from pyro_dvae.errors import warn
from pyro_dvae.internals import UNSAFE_VIEW
from pyro_dvae.machine import is_intel

_ALLOWED_ERROR = 1e-4  # in a sum of 200 products of normals: ten times float32's, 1/1000 of bfloat16's


@contextmanager
def fast_products() -> Iterator[None]:
    """Use oneDNN for float32 matrix products on the CPU in the body, if it is faster and exact.

    torch's own products are those of MKL, which Intel writes for its own processors: there it is faster, on
    others slower. torch's setting for oneDNN also permits bfloat16, which a CPU with matrix units may use; a
    small product shows whether it does. The setting is restored afterwards.
    """
    matmul = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    possible = hasattr(matmul, "fp32_precision") and torch.backends.mkldnn.is_available()
    if matmul is None or not possible or (is_intel() and torch.backends.mkl.is_available()):
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


_LARGE = 1e6


def has_large_products(graph: GraphModule) -> bool:
    """Return whether the mean matrix product takes so many operations that oneDNN can pay.

    oneDNN prepares each call, in about 20 microseconds: as long as torch's own product of that size takes.
    """
    found = [_operations(node) for node in graph.graph.nodes if node.target in _PRODUCTS]
    return bool(found) and sum(found) > _LARGE * len(found)


def _operations(product: Node) -> int:
    """Return the multiplications and additions of a recorded product."""
    return 2 * int(noted(product).numel()) * int(noted(product.args[-2]).shape[-1])


@functools.cache
def _exact() -> bool:
    """Whether oneDNN still multiplies in float32 if bfloat16 is permitted; tested once per process."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 200, generator=generator) for _ in range(2))
    product: Tensor = a @ b.T
    return bool((product - (a.double() @ b.double().T)).abs().max() < _ALLOWED_ERROR)


# The product of (1 + e^-|l|), each in (1, 2], over a group must not overflow: 2^112 does not in float32.
_GROUP_AT_MOST, _GROUP_AT_LEAST = 112, 8
_DTYPES = (torch.float32, torch.float64)


def fuse_bernoulli_sums(graph: GraphModule) -> int:
    """Replace sums over the last dimension of −BCE(logits, x) in place; return how many were replaced.

    With logits l, log Bernoulli(x) = x·l − max(l, 0) − log(1 + e^−|l|), and the sum of the last term over a
    group of pixels is the logarithm of a product that cannot overflow: one logarithm for about a hundred
    pixels. The result agrees up to rounding, also for logits below about −1e4, whose terms vanish.
    """
    found = 0
    for node in list(graph.graph.nodes):
        match = _match(node)
        if match is None:
            continue
        logits, target = match
        with graph.graph.inserting_before(node):
            replacement = graph.graph.call_function(_bernoulli_sum, (logits, target))
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
        found += 1
    if found:
        drop_unused(graph)
    return found


def _match(node: Node) -> tuple[Node, Node] | None:
    """Return logits and targets if ``node`` is sum(neg(bce(logits, targets)), -1), through plain views."""
    aten = torch.ops.aten
    if node.target is not aten.sum.dim_IntList or len(node.args) != 2 or node.args[1] != [-1] or node.kwargs:
        return None
    inner = _through_views(node.args[0])
    if inner is None or inner.target is not aten.neg.default:
        return None
    entropy = _through_views(inner.args[0])
    if (
        entropy is None
        or entropy.target is not aten.binary_cross_entropy_with_logits.default
        or entropy.kwargs
    ):
        return None
    logits, target, weight, positive, reduction = (*entropy.args, None, None, 1)[:5]
    if weight is not None or positive is not None or reduction != 0:
        return None
    value, aim = noted(logits), noted(target)
    if value is None or aim is None or value.dtype not in _DTYPES or value.dtype != aim.dtype:
        return None
    if value.shape != aim.shape or value.dim() == 0 or _group(value.shape[-1]) is None:
        return None
    assert isinstance(logits, Node)
    assert isinstance(target, Node)
    return logits, target


def _through_views(node: Any) -> Node | None:
    """Return the node behind views and expansions that keep the shape."""
    views = (torch.ops.aten.view.default, torch.ops.aten.expand.default, UNSAFE_VIEW)
    while isinstance(node, Node) and node.target in views:
        before, after = noted(node.args[0]), noted(node)
        if before is None or after is None or before.shape != after.shape:
            return None
        node = node.args[0]
    return node if isinstance(node, Node) else None


def _group(size: int) -> int | None:
    """Return the largest divisor of ``size`` that is a valid group size, or None."""
    for group in range(min(size, _GROUP_AT_MOST), _GROUP_AT_LEAST - 1, -1):
        if size % group == 0:
            return group
    return None


def _bernoulli_sum(logits: Tensor, target: Tensor) -> Tensor:
    group = _group(logits.shape[-1])
    assert group is not None
    linear = (target * logits - logits.clamp(min=0)).sum(-1)
    factors = (1 + (-logits.abs()).exp()).unflatten(-1, (-1, group))
    return linear - factors.prod(-1).log().sum(-1)


def replace_log1p(graph: GraphModule) -> None:
    """Compute log(1 + x) and softplus on a CPU without ``log1p``, in place, with a relative error of 2e-7.

    The compiler's vectorised ``log1p`` takes fifteen times as long as ``log``.
    """
    aten = torch.ops.aten
    replacements = {aten.log1p.default: _log1p, aten.softplus.default: _softplus}
    for node in graph.graph.nodes:
        value = noted(node)
        if node.target in replacements and value.dtype in _DTYPES and value.device.type == "cpu":
            node.target = replacements[node.target]
    graph.recompile()


def _log1p(x: Tensor) -> Tensor:
    """Return log(u)·x / (u − 1) with u = 1 + x rounded (Kahan): the errors of both factors cancel."""
    u = 1 + x
    rounded = u - 1
    corrected = torch.where(rounded == 0, x, u.log() * (x / rounded))
    return torch.where(rounded == x, u.log(), corrected)


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    scaled = x * beta
    if x.dtype == torch.float32:
        soft = scaled.clamp(min=0) + _log1p_of_share((-scaled.abs()).exp())
    else:
        soft = _log1p(scaled.exp())
    return torch.where(scaled > threshold, x, soft / beta)


def _log1p_of_share(x: Tensor) -> Tensor:
    """Return log(1 + x) for float32 ``x`` in [0, 1], without a logarithm.

    It is 2 atanh(s) with s = x / (2 + x), at most 1/3: s times a polynomial in s², fitted at Chebyshev nodes
    with a relative error of 2e-8.
    """
    s = x / (2 + x)
    square = s * s
    series = torch.zeros_like(square)
    for coefficient in _ATANH:
        series = square * (series + coefficient)
    return 2 * (s + s * series)


# Of (atanh(s) / s - 1) / s² in powers of s², from the last, for s up to 1/3.
_ATANH = (0.13425749, 0.1411831, 0.2000378, 0.3333332)

_TURNS = 20
_SIZES = (128, 784, 256)  # of the timed product


def use_bfloat16_products(graph: GraphModule) -> int:
    """Round the factors of every float32 matrix product to bfloat16, in place; return how many there are.

    The products are summed in float32 and returned in bfloat16, with an error of about 0.4 % of each result.
    Everything else stays in float32. A processor without bfloat16 emulates it, ten times slower than float32:
    if a timed product is not faster, the graph is unchanged and one warning is given.
    """
    found = 0
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in _PRODUCTS or node.kwargs:
            continue
        value = noted(node)
        if value is not None and value.dtype == torch.float32:
            if not bfloat16_pays(value.device):
                return 0
            node.target = _PRODUCTS[node.target]
            found += 1
    graph.recompile()
    return found


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _mm(a, b) + bias


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a.to(torch.bfloat16), b.to(torch.bfloat16)).float()


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.to(torch.bfloat16), b.to(torch.bfloat16)).float()


# Recorded products, and their forms with rounded factors.
_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.mm.default: _mm,
    torch.ops.aten.bmm.default: _bmm,
}


def bfloat16_pays(device: torch.device) -> bool:
    """Return whether compiled steps on ``device`` round the factors of products if they are asked to."""
    return device.type != "cpu" or pays()


@functools.cache
def pays() -> bool:
    """Return whether products of rounded factors take less time on this processor; warn if not.

    It is measured once per process, in a fraction of a second.
    """
    a, b = torch.ones(_SIZES[:2]), torch.ones(_SIZES[1:])
    with torch.no_grad(), fast_products():
        full, half = _seconds(lambda: torch.mm(a, b)), _seconds(lambda: _mm(a, b))
    if half < full:
        return True
    warn(
        f"bfloat16: a matrix product takes {half / full:.1f} times as long as in float32 on this processor; "
        "products stay in float32",
    )
    return False


def _seconds(product: Callable[[], Tensor]) -> float:
    """Return the minimum time of several runs, because other load only adds to it."""
    taken = []
    for _ in range(_TURNS):
        began = time.perf_counter()
        product()
        taken.append(time.perf_counter() - began)
    return min(taken)
