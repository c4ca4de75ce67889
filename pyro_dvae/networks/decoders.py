"""Generative networks: from a latent to the distribution p(x | z) of a datum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.networks.mlp import last_dimension, linear, trunk

INITIAL_SCALE = 0.1  # of a learned scale, above its minimum: of the order of the spread of pixels in [0, 1]


class BernoulliDecoder(nn.Module):
    """Independent Bernoulli pixels: x ~ Bernoulli(sigmoid(W h + b)), h = trunk(z).

    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.
    It never validates its targets, so grey values in [0, 1] are accepted: ``log_prob`` is then the negative
    cross-entropy Σ x log p + (1 − x) log(1 − p), as is usual for grey MNIST, and not a normalised density.
    Check the data once where they are loaded: values outside [0, 1] are not refused here either.
    Every layer starts with Glorot uniform weights and zero biases.
    """

    def __init__(
        self,
        latent_size: int,
        data_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)
        self.data_size = checks.count("data_size", data_size)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)

    def forward(self, z: torch.Tensor) -> dist.Independent:
        """Return p(x | z) with event shape ``[data_size]`` for ``z`` of ``[..., latent_size]``."""
        last_dimension("z", z, self.latent_size, "latent_size")
        logits = self.head(self.trunk(z))
        pixels = dist.Bernoulli(logits=logits, validate_args=False)
        return dist.Independent(pixels, 1, validate_args=False)


class GaussianDecoder(nn.Module):
    """Independent Gaussian pixels: x ~ Normal(μ, σ), μ = sigmoid(W h + b), h = trunk(z).

    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.
    ``bounded=False`` leaves out the sigmoid, for data beyond [0, 1]. ``scale`` says where σ comes from:

    - ``"learned"``: one number for all pixels, σ = minimum_scale + softplus(u), starting 0.1 above it;
    - ``"per-pixel"``: a second output of the network, σ = minimum_scale + softplus(V h + c), c set so that
      σ starts about 0.1 above it;
    - a number: that σ, not learned (``minimum_scale`` plays no part, and the state dict does not hold it).

    The minimum keeps the density bounded: without it pixels that are the same in every image drive σ to 0
    and the bound to infinity. Weights start Glorot uniform, all other biases at zero.
    """

    def __init__(
        self,
        latent_size: int,
        data_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        scale: str | float = "learned",
        minimum_scale: float = 1e-3,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)
        self.data_size = checks.count("data_size", data_size)
        self.minimum_scale = checks.number("minimum_scale", minimum_scale, minimum=0.0)
        self.bounded = bounded
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)
        if isinstance(scale, str):
            self.scale: str | float = checks.known("scale", scale, ("learned", "per-pixel"))
        else:
            self.scale = checks.positive("scale", scale)
        start = math.log(math.expm1(INITIAL_SCALE))  # softplus(start) = INITIAL_SCALE
        if self.scale == "learned":
            self.unconstrained_scale = nn.Parameter(torch.tensor(start))
        elif self.scale == "per-pixel":
            self.scale_head = linear(hidden_sizes[-1], self.data_size)
            nn.init.constant_(self.scale_head.bias, start)

    def forward(self, z: torch.Tensor) -> dist.Independent:
        """Return p(x | z) with event shape ``[data_size]`` for ``z`` of ``[..., latent_size]``."""
        last_dimension("z", z, self.latent_size, "latent_size")
        hidden = self.trunk(z)
        loc = self.head(hidden)
        if self.bounded:
            loc = loc.sigmoid()
        return dist.Normal(loc, self._scale(hidden)).to_event(1)

    def _scale(self, hidden: torch.Tensor) -> torch.Tensor | float:
        if self.scale == "learned":
            return self.minimum_scale + softplus(self.unconstrained_scale)
        if self.scale == "per-pixel":
            return self.minimum_scale + softplus(self.scale_head(hidden))
        return float(self.scale)
