"""The registry of activations, by name."""

from __future__ import annotations

from torch import nn

from pyro_dvae import checks

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """Return a new activation module by its registered name."""
    return ACTIVATIONS[checks.known("activation", name, ACTIVATIONS)]()
