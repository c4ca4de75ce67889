"""Encoders, from (corrupted) data to the parameters of q(z | x̃)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

from pyro_dvae import checks
from pyro_dvae.networks.mlp import last_dimension, linear, trunk
from pyro_dvae.registration import Module

_LARGEST_LOG = 80.0


class Encoder(Module, ABC):
    """Location and scale of a diagonal Gaussian over the latent; a subclass defines the features h(x).

    (μ, log σ²) = W h(x) + b;  the forward pass gives (μ, σ) with σ = exp(log σ² / 2), finite and above zero
    for rows far from those of training, too: log σ² lies in [-80, 80]. ``x`` is ``[...,
    data_size]``; both results are ``[..., latent_size]``. A subclass sets ``head``, the affine layer (W, b),
    after the layers of its features.
    """

    head: nn.Linear

    def __init__(self, data_size: int, latent_size: int) -> None:
        super().__init__()
        self.data_size = checks.count("data_size", data_size)
        self.latent_size = checks.count("latent_size", latent_size)

    @abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return h(x) ``[..., F]`` for ``x`` of ``[..., data_size]``."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(loc, scale)``, each ``[..., latent_size]``, for ``x`` of ``[..., data_size]``."""
        last_dimension("x", x, self.data_size, "data_size")
        loc, log_variance = self.head(self.features(x)).chunk(2, dim=-1)
        return loc, (0.5 * log_variance.clamp(-_LARGEST_LOG, _LARGEST_LOG)).exp()


class GaussianEncoder(Encoder):
    """Fully connected recognition network (Kingma & Welling 2014, appendix C.2): h = trunk(x).

    ``x`` is ``[..., data_size]``; location and scale are ``[..., latent_size]``.
    Every layer, the head included, starts with Glorot uniform weights and zero biases.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
    ) -> None:
        super().__init__(data_size, latent_size)
        self.trunk = trunk(self.data_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], 2 * self.latent_size)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.trunk(x)
        return hidden


class GRUEncoder(Encoder):
    """One layer of gated recurrent units with the same input x at each step (Im et al. 2017, Table 3).

    With h_0 = 0, for t = 1 .. steps (Cho et al. 2014, in the form of ``torch.nn.GRU``):

    - reset and update gates r, u = sigmoid(W x + b + V h_{t−1} + c), each with its own rows;
    - candidate n = tanh(W x + b + r · (V h_{t−1} + c));
    - h_t = (1 − u) · n + u · h_{t−1}.

    The head's features are the last h. Because x does not change, W x + b is computed only once. Initial
    input weights are Glorot uniform for each gate, recurrent weights are orthogonal, and biases are zero.

    :param data_size: D, of ``x`` [..., D].
    :param latent_size: d, of the results (loc, scale), each [..., d].
    :param hidden_size: number of recurrent units.
    :param steps: number of recurrent steps.
    """

    def __init__(self, data_size: int, latent_size: int, hidden_size: int = 200, steps: int = 5) -> None:
        super().__init__(data_size, latent_size)
        self.hidden_size = checks.count("hidden_size", hidden_size)
        self.steps = checks.count("steps", steps)
        self.input_layer = _gates(self.data_size, self.hidden_size, nn.init.xavier_uniform_)
        self.recurrent_layer = _gates(self.hidden_size, self.hidden_size, nn.init.orthogonal_)
        self.head = linear(self.hidden_size, 2 * self.latent_size)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        from_x = self.input_layer(x)
        h = from_x.new_zeros(())
        from_h = self.recurrent_layer.bias  # for h = 0, the first step needs no product
        for step in range(self.steps):
            if step > 0:
                from_h = self.recurrent_layer(h)
            h = self._step(from_x, from_h, h)
        return h

    def _step(self, from_x: torch.Tensor, from_h: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        sizes = (2 * self.hidden_size, self.hidden_size)
        gates_x, candidate_x = from_x.split(sizes, dim=-1)
        gates_h, candidate_h = from_h.split(sizes, dim=-1)
        reset, update = (gates_x + gates_h).sigmoid().chunk(2, dim=-1)
        candidate = (candidate_x + reset * candidate_h).tanh()
        return candidate + update * (h - candidate)


def _gates(in_size: int, hidden_size: int, initialise: Callable[[torch.Tensor], object]) -> nn.Linear:
    """Return the affine layer of reset gate, update gate and candidate, each initialised separately."""
    layer = nn.Linear(in_size, 3 * hidden_size)
    for gate in layer.weight.chunk(3):
        initialise(gate)
    nn.init.zeros_(layer.bias)
    return layer
