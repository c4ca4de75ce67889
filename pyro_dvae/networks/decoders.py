"""Decoders, from a latent to the distribution p(x | z) of an observation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_dvae.networks.mlp import last_dimension, linear, trunk
from pyro_dvae.registration import Module

INITIAL_SCALE = 0.1  # of a learned scale, above its minimum: of the order of the spread of pixels in [0, 1]
UNCONSTRAINED_START = math.log(math.expm1(INITIAL_SCALE))  # softplus of it is INITIAL_SCALE

MAXIMUM_LOGIT = 16.0


class Elements(Module):
    """p(x | outputs) of independent elements: from outputs [..., numbers · D] to event shape [D]."""

    numbers: ClassVar[int] = 1  # that an element needs


class BernoulliElements(Elements):
    """x ~ Bernoulli(sigmoid(logits)), without validation, so that grey values have a cross-entropy."""

    def forward(self, logits: Tensor) -> dist.Independent:
        """Return the distribution of event shape [D]."""
        elements = dist.Bernoulli(logits=logits, validate_args=False)
        return dist.Independent(elements, 1, validate_args=False)


class ContinuousBernoulliElements(Elements):
    """x ~ ContinuousBernoulli(L tanh(outputs / L)), a density on [0, 1]; validation refuses other values.

    The limit keeps the density bounded, as a least scale does a Gaussian's: pixels that are exactly 0 or 1
    would drive the logit to infinity, with a gain of log |logit| each. An element's density is at most about
    L, so figures of different limits do not compare.

    :param maximum_logit: L; 16, about where Pyro's own distribution stops in float32, by default.
    """

    def __init__(self, maximum_logit: float = MAXIMUM_LOGIT) -> None:
        super().__init__()
        self.maximum_logit = checks.positive("maximum_logit", maximum_logit)

    def forward(self, outputs: Tensor) -> dist.Independent:
        """Return the distribution of event shape [D]."""
        logits = self.maximum_logit * (outputs / self.maximum_logit).tanh()
        return ContinuousBernoulli(logits).to_event(1)


class GaussianElements(Elements):
    """x ~ Normal(sigmoid(outputs), σ), with one learned σ = minimum_scale + softplus(u) for all elements.

    :param minimum_scale: lower limit of σ; its initial value is 0.1 higher.
    """

    def __init__(self, minimum_scale: float = 1e-3) -> None:
        super().__init__()
        self.minimum_scale = checks.number("minimum_scale", minimum_scale, minimum=0.0)
        self.unconstrained_scale = nn.Parameter(torch.tensor(UNCONSTRAINED_START))

    def forward(self, outputs: Tensor) -> dist.Independent:
        """Return the distribution of event shape [D]."""
        scale = self.minimum_scale + softplus(self.unconstrained_scale)
        return dist.Normal(outputs.sigmoid(), scale).to_event(1)


class PerElementGaussianElements(Elements):
    """x ~ Normal(sigmoid(a), σ), σ = minimum_scale + softplus(v + c), the outputs being a, then all v.

    :param minimum_scale: lower limit of σ; the constant c puts it 0.1 above that at v = 0.
    """

    numbers = 2

    def __init__(self, minimum_scale: float = 1e-3) -> None:
        super().__init__()
        self.minimum_scale = checks.number("minimum_scale", minimum_scale, minimum=0.0)

    def forward(self, outputs: Tensor) -> dist.Independent:
        """Return the distribution of event shape [D]."""
        loc, unconstrained = outputs.chunk(2, dim=-1)
        scale = self.minimum_scale + softplus(unconstrained + UNCONSTRAINED_START)
        return dist.Normal(loc.sigmoid(), scale).to_event(1)


LIKELIHOODS: dict[str, type[Elements]] = {
    "bernoulli": BernoulliElements,
    "continuous-bernoulli": ContinuousBernoulliElements,
    "gaussian": GaussianElements,
    "gaussian-per-pixel": PerElementGaussianElements,
}


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
    a gain of log |logit| each. An element's density is at most about L, so figures of different limits do not
    compare. Every layer starts with Glorot uniform weights and zero biases.

    :param maximum_logit: L; 16, about where Pyro's own distribution stops in float32, by default.
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

    - ``"learned"``: one number for all pixels, σ = minimum_scale + softplus(u), starting ``initial_scale``
      above it;
    - ``"per-column"``: one number for each element of x, learned likewise;
    - ``"per-pixel"``: a second output of the network, σ = minimum_scale + softplus(V h + c), c set so that
      σ starts about ``initial_scale`` above it;
    - a number: that σ, not learned (``minimum_scale`` plays no part, and the state dict does not hold it).

    The minimum keeps the density bounded: without it pixels that are the same in every image drive σ to 0
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
