"""The optimizer of a training, Adam, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Adam


def adam(leaves: Sequence[Tensor], learning_rate: float) -> Adam:
    """Return Adam in its fused form, or as torch chooses where device or type have no fused one."""
    try:
        return Adam(list(leaves), lr=learning_rate, fused=True)
    except RuntimeError:
        return Adam(list(leaves), lr=learning_rate)


def adam_tensors(optimizer: Adam, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the moments and step counts as ``exp_avg/NAME``, ``exp_avg_sq/NAME``, ``step/NAME``."""
    return {
        f"{key}/{name}": value
        for name, leaf in parameters.items()
        for key, value in optimizer.state.get(leaf, {}).items()
    }


def assign_adam(optimizer: Adam, parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Give ``optimizer`` the state that :func:`adam_tensors` returned."""
    fused = bool(optimizer.param_groups[0]["fused"])
    optimizer.state.clear()
    for full_name, value in saved.items():
        key, _, name = full_name.partition("/")
        leaf = parameters[name]
        if key == "step":
            optimizer.state[leaf][key] = value.to(leaf.device if fused else "cpu", copy=True)
        else:
            optimizer.state[leaf][key] = torch.empty_like(leaf, requires_grad=False).copy_(value)
