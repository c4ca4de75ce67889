"""The fully connected trunk shared by encoders and decoders, its activations, and their input check."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError, NumberTypeError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """Return a new activation module by its registered name."""
    return ACTIVATIONS[checks.known("activation", name, ACTIVATIONS)]()


def linear(in_size: int, out_size: int) -> nn.Linear:
    """Return an affine layer with Glorot uniform weights and zero biases."""
    layer = nn.Linear(in_size, out_size)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(sizes: Sequence[int], activation: str = "softplus") -> nn.Sequential:
    """Return affine layers ``sizes[0] -> sizes[1] -> ...``, each followed by an activation.

    Weights start Glorot uniform (Glorot & Bengio 2010), biases at zero.
    """
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence) or len(sizes) < 2:
        raise InputError(f"sizes: expected an input size and at least one layer size, got {sizes!r}")
    for size in sizes:
        checks.count("sizes", size)
    kind = ACTIVATIONS[checks.known("activation", activation, ACTIVATIONS)]
    return nn.Sequential(*(part for pair in pairwise(sizes) for part in (linear(*pair), kind())))


def trunk(in_size: int, hidden_sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return :func:`mlp` from ``in_size`` through ``hidden_sizes``, which must have at least one entry."""
    sequence = isinstance(hidden_sizes, Sequence) and not isinstance(hidden_sizes, (str, bytes))
    if not sequence or len(hidden_sizes) == 0:
        raise InputError(f"hidden_sizes: expected at least one layer size, got {hidden_sizes!r}")
    for size in hidden_sizes:
        checks.count("hidden_sizes", size)
    return mlp([in_size, *hidden_sizes], activation)


def last_dimension(argument: str, value: torch.Tensor, size: int, meaning: str) -> torch.Tensor:
    """Return ``value``, which must be a floating-point tensor of shape ``[..., size]``."""
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{argument}: expected a tensor, got {type(value).__name__}")
    if value.ndim == 0 or value.shape[-1] != size:
        shape = tuple(value.shape)
        raise InputError(f"{argument}: expected a last dimension of {size} ({meaning}), got shape {shape}")
    if not value.is_floating_point():
        raise NumberTypeError(f"{argument}: expected floating-point values, got {value.dtype} (try .float())")
    return value
