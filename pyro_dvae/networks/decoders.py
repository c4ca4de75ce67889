"""Decoders, from a latent to the distribution p(x | z) of an observation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.networks.elements import (
    MAXIMUM_LOGIT,
    BernoulliElements,
    ContinuousBernoulliElements,
    DiscretisedLogisticElements,
    DiscretisedLogisticMixtureElements,
)
from pyro_dvae.networks.mlp import last_dimension, linear, trunk
from pyro_dvae.registration import Module


class Decoder(Module):
    """x ~ likelihood(head(trunk(z))), with independent elements; a subclass sets these three parts.

    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.
    """

    trunk: nn.Module
    head: nn.Module
    likelihood: nn.Module

    def __init__(self, data_size: int, latent_size: int) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)
        self.data_size = checks.count("data_size", data_size)

    @property
    def discrete(self) -> bool:
        """Whether p(x | z) is a probability of discrete values, not a density."""
        return bool(self.likelihood.discrete)

    def start_at(self, rows: torch.Tensor) -> None:
        """Start at training rows [N, D] if the likelihood can use them; by default do nothing."""

    def elements(self, hidden: torch.Tensor) -> dist.Independent:
        """Return p(x | z) with event shape ``[data_size]`` for trunk(z) ``[..., H]``."""
        pixels: dist.Independent = self.likelihood(self.head(hidden))
        return pixels

    def forward(self, z: torch.Tensor) -> dist.Independent:
        """Return p(x | z) with event shape ``[data_size]`` for ``z`` of ``[..., latent_size]``."""
        last_dimension("z", z, self.latent_size, "latent_size")
        return self.elements(self.trunk(z))


class BernoulliDecoder(Decoder):
    """Independent Bernoulli pixels: x ~ Bernoulli(sigmoid(W h + b)), h = trunk(z).

    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.
    Values are not validated, so grey values in [0, 1] are accepted. ``log_prob`` is then the negative
    cross-entropy Σ x log p + (1 − x) log(1 − p), as is usual for grey MNIST, and not a normalised density.
    Values outside [0, 1] are not refused either, so check the data when you load them. Every layer starts
    with Glorot uniform weights and zero biases.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
    ) -> None:
        super().__init__(data_size, latent_size)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)
        self.likelihood = BernoulliElements()


class ContinuousBernoulliDecoder(Decoder):
    """Independent pixels in [0, 1]: x ~ ContinuousBernoulli(logits), logits = L tanh((W h + b) / L).

    For grey values this is a normalised density, unlike the cross-entropy of a Bernoulli decoder
    (Loaiza-Ganem and Cunningham 2019); see :class:`~pyro_dvae.networks.ContinuousBernoulli`. ``z`` is ``[...,
    latent_size]``, h = trunk(z); the result has batch shape ``[...]`` and event shape ``[data_size]``. The
    limit L keeps the density bounded: pixels that are exactly 0 or 1 would drive the logit to infinity, with
    a gain of log |logit| each. An element's density is at most about L, so results with different limits are
    not comparable. Every layer starts with Glorot uniform weights and zero biases.

    :param maximum_logit: L; by default 16, about the limit of Pyro's own distribution in float32.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        maximum_logit: float = MAXIMUM_LOGIT,
    ) -> None:
        super().__init__(data_size, latent_size)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)
        self.likelihood = ContinuousBernoulliElements(maximum_logit)


class GaussianDecoder(Decoder):
    """Independent Gaussian pixels: x ~ Normal(μ, σ), μ = sigmoid(W h + b), h = trunk(z).

    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.
    ``bounded=False`` omits the sigmoid, for data outside [0, 1]. ``scale`` determines σ:

    - ``"learned"``: one number for all pixels, σ = minimum_scale + softplus(u), with the initial value
      minimum_scale + ``initial_scale``;
    - ``"per-column"``: the same, with one number for each element of x;
    - ``"per-pixel"``: a second output of the network, σ = minimum_scale + softplus(V h + c), with about the
      same initial value through c;
    - a number: a fixed σ (``minimum_scale`` is not used, and the state dict does not contain σ).

    The minimum keeps the density bounded: without it, pixels that are the same in every image drive σ to 0
    and the bound to infinity. Weights start Glorot uniform, all other biases at zero.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        scale: str | float = "learned",
        minimum_scale: float = 1e-3,
        initial_scale: float = 0.1,
        bounded: bool = True,
    ) -> None:
        super().__init__(data_size, latent_size)
        start = math.log(math.expm1(checks.number("initial_scale", initial_scale, 1e-6, 500.0)))
        self.minimum_scale = checks.number("minimum_scale", minimum_scale, minimum=0.0)
        self.bounded = bounded
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)
        if isinstance(scale, str):
            self.scale: str | float = checks.known("scale", scale, ("learned", "per-column", "per-pixel"))
        else:
            self.scale = checks.positive("scale", scale)
        if self.scale == "learned":
            self.unconstrained_scale = nn.Parameter(torch.tensor(start))
        elif self.scale == "per-column":
            self.unconstrained_scale = nn.Parameter(torch.full((self.data_size,), start))
        elif self.scale == "per-pixel":
            self.scale_head = linear(hidden_sizes[-1], self.data_size)
            nn.init.constant_(self.scale_head.bias, start)

    @property
    def discrete(self) -> bool:
        return False

    def elements(self, hidden: torch.Tensor) -> dist.Independent:
        loc = self.head(hidden)
        if self.bounded:
            loc = loc.sigmoid()
        return dist.Normal(loc, self._scale(hidden)).to_event(1)

    def _scale(self, hidden: torch.Tensor) -> torch.Tensor | float:
        if self.scale in ("learned", "per-column"):
            return self.minimum_scale + softplus(self.unconstrained_scale)
        if self.scale == "per-pixel":
            return self.minimum_scale + softplus(self.scale_head(hidden))
        return float(self.scale)


class DiscretisedLogisticDecoder(Decoder):
    """Levels of colour: x = k / (L − 1) with the logistic mass of its interval (Salimans et al. 2017).

    ``P(x) = Σ_c π_c [σ((x + ½w − μ_c) / s_c) − σ((x − ½w − μ_c) / s_c)]`` for each element, w = 1 / (L − 1);
    the first and last intervals reach to infinity. Weights, locations and scales are affine in h = trunk(z)
    (log s above a limit). ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event
    shape ``[data_size]``. Its code length, −log₂ P / D, is comparable with published bits per dimension. The
    corruption for it is :class:`~pyro_dvae.corruptions.GaussianNoise`.

    :param mixture: use a mixture of five logistics instead of one.
    :param levels: L, 256 for bytes that were divided by 255; a value counts as the nearest level.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        mixture: bool = False,
        levels: int = 256,
    ) -> None:
        super().__init__(data_size, latent_size)
        several = checks.flag("mixture", mixture)
        kind = DiscretisedLogisticMixtureElements if several else DiscretisedLogisticElements
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], kind.numbers * self.data_size)
        self.likelihood = kind(levels)
