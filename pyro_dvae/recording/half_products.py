"""A rewrite of recorded graphs: matrix products in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.recording.record import noted


def use_bfloat16_products(graph: GraphModule) -> int:
    """Round the factors of every float32 matrix product to bfloat16, in place; return how many there are.

    The products are added up in float32 and handed on in bfloat16's eight bits: an error of about 0.4 %
    of each result. All else stays in float32.
    """
    aten = torch.ops.aten
    replacements = {aten.addmm.default: _addmm, aten.mm.default: _mm, aten.bmm.default: _bmm}
    found = 0
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in replacements or node.kwargs:
            continue
        value = noted(node)
        if value is not None and value.dtype == torch.float32:
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
