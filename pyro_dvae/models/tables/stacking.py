"""Weights of several predictions whose weighted mean has the least squared error."""

from __future__ import annotations

import torch
from torch import Tensor


def stacked(predictions: Tensor, truth: Tensor, steps: int = 2000) -> Tensor:
    """Return weights w ≥ 0 with Σ w = 1 of least ‖P w − y‖² (stacking, Breiman 1996), [M].

    Projected gradient steps of size 1 / largest eigenvalue, with Nesterov's momentum. Weights below a
    hundredth are set to zero.

    :param predictions: P, [cells, M].
    :param truth: y, [cells].
    """
    gram, target = predictions.mT @ predictions, predictions.mT @ truth
    rate = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12)
    weight = torch.full_like(target, 1 / len(target))
    ahead = weight
    for step in range(steps):
        moved = onto_simplex(ahead - rate * (gram @ ahead - target))
        ahead = moved + step / (step + 3) * (moved - weight)
        weight = moved
    weight = torch.where(weight < 0.01, 0.0, weight)
    return weight / weight.sum()


def onto_simplex(value: Tensor) -> Tensor:
    """Return the nearest point with non-negative entries that sum to 1 (Duchi et al. 2008)."""
    ordered = value.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(value) + 1, dtype=value.dtype, device=value.device)
    last = int((ordered > excess).sum()) - 1
    return (value - excess[last]).clamp(min=0)
