"""Recognition networks: from a (corrupted) datum to the parameters of q(z | x̃)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from pyro_dvae import checks
from pyro_dvae.networks.mlp import last_dimension, linear, trunk
from pyro_dvae.registration import Module


class Encoder(Module, ABC):
    """Location and scale of a diagonal Gaussian over the latent; a subclass gives the features h(x).

    (μ, log σ²) = W h(x) + b;  the forward pass gives (μ, σ) with σ = exp(log σ² / 2).
    ``x`` is ``[..., data_size]``; both results are ``[..., latent_size]``. A subclass sets ``head``, the
    affine layer (W, b), after what its features need.
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
        return loc, (0.5 * log_variance).exp()


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
