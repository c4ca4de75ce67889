"""Shared by the contenders that run on torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from peers.problem import Layers, Problem


def sequential(layers: Layers) -> nn.Sequential:
    """Return the layers, with softplus between them."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        modules += [nn.utils.skip_init(nn.Linear, *weight.shape[::-1]), nn.Softplus()]
        modules[-2].load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return nn.Sequential(*modules[:-1])


def data_of(problem: Problem) -> Tensor:
    """Return the data on the problem's device."""
    return torch.from_numpy(problem.data()).to(problem.device)


def corrupted(x: Tensor, rate: float) -> Tensor:
    """Return ``x`` with salt-and-pepper noise, one uniform number per pixel."""
    uniform = torch.rand_like(x)
    return torch.where(uniform < rate / 2, 1.0, torch.where(uniform < rate, 0.0, x))


def epochs(data: Tensor, problem: Problem, step: Callable[[Tensor], float | Tensor]) -> Callable[[], float]:
    """Return a function that runs an epoch and returns the mean loss per row, read back at its end."""

    def epoch() -> float:
        total: float | Tensor = 0.0
        for rows in torch.randperm(len(data), device=data.device).split(problem.batch):
            total = total + step(data[rows])
        return float(total) / len(data)

    return epoch
