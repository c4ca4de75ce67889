"""Bounds as pure functions of log weights [K, M, ...] (nats), and their leave-one-out values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Reduction = Callable[[Tensor], Tensor]


def log_mean_exp(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the log of the mean of exp over ``dims``."""
    count = math.prod(value.shape[dim] for dim in dims)
    return torch.logsumexp(value, dims) - math.log(count)


def _mean(log_weight: Tensor) -> Tensor:
    return log_weight.mean((0, 1))


def _average(log_weight: Tensor) -> Tensor:
    return log_mean_exp(log_weight, (0,)).mean(0)


def _pooled(log_weight: Tensor) -> Tensor:
    return log_mean_exp(log_weight, (0, 1))


@dataclass(frozen=True)
class Objective:
    """A bound as a function of log weights, with what its gradient estimators need.

    :param reduce: maps [K, M, ...] to the bound [...].
    :param share: maps [K, M, ...] to the part of the bound that a draw affects, [K or 1, M or 1, ...]; the
        parts sum to the bound.
    :param weights: maps [K, M, ...] to the derivative of the bound by each log weight, [K, M, ...].
    :param within_column: whether draws of other corruptions cancel from a latent's learning signal.
    """

    reduce: Reduction
    share: Reduction
    weights: Reduction
    within_column: bool


def _size(log_weight: Tensor) -> int:
    return log_weight.shape[0] * log_weight.shape[1]


# 1/(MK) Σ_m Σ_k log w_mk: the denoising bound.
MEAN = Objective(
    _mean,
    lambda w: w / _size(w),
    lambda w: torch.full_like(w, 1 / _size(w)),
    within_column=True,
)
# 1/M Σ_m log 1/K Σ_k w_mk: eq. 12 of Im et al. (2017), with its 1/K.
AVERAGE = Objective(
    _average,
    lambda w: log_mean_exp(w, (0,)).unsqueeze(0) / w.shape[1],
    lambda w: torch.softmax(w, 0) / w.shape[1],
    within_column=True,
)
# log 1/(MK) Σ_m Σ_k w_mk.
POOLED = Objective(
    _pooled,
    lambda w: _pooled(w)[None, None],
    lambda w: torch.softmax(w.flatten(0, 1), 0).reshape(w.shape),
    within_column=False,
)


def without_latents(reduce: Reduction, log_weight: Tensor, within_column: bool) -> Tensor | None:
    """Return the bound without each draw, [K, M, *datum]: its log weight replaced by the mean of the others.

    The others are those of the same corruption (``within_column``) or all, as in VIMCO (Mnih and Rezende
    2016). The result does not depend on the draw, so it is a baseline for it. None if there are no others.
    """
    k, m, *datum = log_weight.shape
    others = k if within_column else k * m
    if others == 1:
        return None
    dims = (0,) if within_column else (0, 1)
    replaced = (log_weight.sum(dims, keepdim=True) - log_weight) / (others - 1)
    same = torch.eye(k * m, dtype=torch.bool, device=log_weight.device)
    same = same.reshape(k, m, k, m, *[1] * len(datum))
    return reduce(torch.where(same, replaced[:, :, None, None], log_weight[:, :, None, None]))


def without_corruptions(reduce: Reduction, log_weight: Tensor) -> Tensor | None:
    """Return the bound without each corruption, [M, *datum]: its column replaced by the others' mean."""
    _, m, *datum = log_weight.shape
    if m == 1:
        return None
    replaced = (log_weight.sum(1, keepdim=True) - log_weight) / (m - 1)
    same = torch.eye(m, dtype=torch.bool, device=log_weight.device).reshape(1, m, m, *[1] * len(datum))
    return reduce(torch.where(same, replaced[:, :, None], log_weight[:, :, None]))
