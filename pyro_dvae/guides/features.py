"""The network in front of a guide's own output layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.networks.mlp import last_dimension, trunk
from pyro_dvae.registration import Module


class Features(Module):
    """A fully connected network from x̃ [..., data_size] to features [..., hidden_sizes[-1]].

    An activation follows every layer; weights start Glorot uniform, biases at zero.
    """

    def __init__(self, data_size: int, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.data_size = checks.count("data_size", data_size)
        self.trunk = trunk(self.data_size, hidden_sizes, activation)
        self.feature_size = hidden_sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of ``x`` [..., data_size]."""
        last_dimension("x", x, self.data_size, "data_size")
        features: Tensor = self.trunk(x)
        return features
