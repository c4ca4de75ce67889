"""Adapts a module for one batch dimension to any leading dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module


class Lifted(Module):
    """Apply a module for [N, *event], such as a convolutional network, to inputs [..., *event].

    Bounds with several draws give a network data with further dimensions on the left, [K, M, N, C, H, W].
    Many torch modules accept only one, [N, C, H, W]. ``Lifted`` flattens all leading dimensions into one,
    runs the module once, and restores them in each output tensor::

        encoder = dv.networks.Lifted(network, event_dim=3)  # network takes [N, C, H, W]
        nn.Sequential(nn.Unflatten(-1, (3, 32, 32)), encoder)  # the same for flat rows [..., 3072]

    Batch normalisation, if the module has it, then normalises over all rows and draws together.

    :param module: module from tensors [N, *event] to a tensor [N, ...], or a tuple, list or dictionary of
        them. Let it return the parameters of a distribution, not the distribution.
    :param event_dim: number of rightmost dimensions of an input that belong to one row; for several inputs a
        list with one number each. The leading dimensions of several inputs are broadcast.
    """

    def __init__(self, module: nn.Module, event_dim: int | list[int] | tuple[int, ...]) -> None:
        super().__init__()
        self.module = checks.module("module", module)
        dims = event_dim if isinstance(event_dim, list | tuple) else [event_dim]
        if not dims:
            raise InputError("event_dim: expected at least one number, got none")
        self.event_dims = tuple(checks.count("event_dim", dim, minimum=0) for dim in dims)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the module's output for ``inputs``, each [..., *event], with all leading dimensions."""
        if len(inputs) != len(self.event_dims):
            raise InputError(
                f"inputs: expected {len(self.event_dims)}, the length of event_dim, got {len(inputs)}; "
                "give event_dim one number for each input"
            )
        cuts = [_cut(x, dim) for x, dim in zip(inputs, self.event_dims, strict=True)]
        leading = torch.broadcast_shapes(*(lead for lead, _ in cuts))
        flat = [
            x.expand(leading + event).reshape(leading.numel(), *event)
            for x, (_, event) in zip(inputs, cuts, strict=True)
        ]
        return _restored(self.module(*flat), leading)


def _cut(x: Tensor, event_dim: int) -> tuple[torch.Size, torch.Size]:
    if checks.dense("inputs", x).dim() < event_dim:
        raise InputError(
            f"inputs: expected at least event_dim = {event_dim} dimensions, got {tuple(x.shape)}"
        )
    first = x.dim() - event_dim
    return x.shape[:first], x.shape[first:]


def _restored(output: Any, leading: torch.Size) -> Any:
    """Replace the first dimension of each tensor in the output with the leading dimensions."""
    if isinstance(output, Tensor):
        rows = leading.numel()
        if output.shape[:1] != (rows,):
            raise InputError(
                f"module: expected an output of {rows} rows, as its input, got {tuple(output.shape)}"
            )
        return output.reshape(leading + output.shape[1:])
    if isinstance(output, Mapping):
        return {name: _restored(each, leading) for name, each in output.items()}
    if isinstance(output, tuple | list):
        parts = [_restored(each, leading) for each in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    raise InputError(
        f"module: expected tensors as output, got {type(output).__name__}; lift only the part that returns "
        "tensors, and build distributions outside it"
    )
