"""Distributions of the elements of a datum, given the numbers that a decoder computes for each."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.networks.continuous_bernoulli import ContinuousBernoulli
from pyro_dvae.registration import Module

INITIAL_SCALE = 0.1  # of a learned scale, above its minimum: of the order of the spread of pixels in [0, 1]
UNCONSTRAINED_START = math.log(math.expm1(INITIAL_SCALE))  # softplus of it is INITIAL_SCALE

MAXIMUM_LOGIT = 16.0


class Elements(Module):
    """p(x | outputs) of independent elements: from outputs [..., numbers · D] to event shape [D]."""

    numbers: ClassVar[int] = 1  # that an element needs


class BernoulliElements(Elements):
    """x ~ Bernoulli(sigmoid(logits)), never validated: grey targets have a cross-entropy."""

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
    """x ~ Normal(sigmoid(outputs), σ), one σ = minimum_scale + softplus(u) for all elements, learned.

    :param minimum_scale: lower limit of σ, which starts 0.1 above it.
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
