"""Likelihoods of independent elements: from the outputs of a network to p(x | z)."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_dvae.distributions.intervals import Categorical, DiscretisedLogistic
from pyro_dvae.distributions.mixture import Mixture
from pyro_dvae.registration import Module

INITIAL_SCALE = 0.1  # of a learned scale, above its minimum: about the spread of pixels in [0, 1]
UNCONSTRAINED_START = math.log(math.expm1(INITIAL_SCALE))  # softplus of it is INITIAL_SCALE

MAXIMUM_LOGIT = 16.0


class Elements(Module):
    """p(x | outputs) of independent elements: from outputs [..., numbers · D] to event shape [D]."""

    numbers: ClassVar[int] = 1  # outputs per element
    discrete: bool = False  # whether elements have probabilities, not densities


class BernoulliElements(Elements):
    """x ~ Bernoulli(sigmoid(logits)), without validation, so that grey values have a cross-entropy."""

    discrete = True

    def forward(self, logits: Tensor) -> dist.Independent:
        elements = dist.Bernoulli(logits=logits, validate_args=False)
        return dist.Independent(elements, 1, validate_args=False)


class ContinuousBernoulliElements(Elements):
    """x ~ ContinuousBernoulli(L tanh(outputs / L)), a density on [0, 1]; validation refuses other values.

    The limit keeps the density bounded, like a minimum scale of a Gaussian: pixels that are exactly 0 or 1
    would drive the logit to infinity, with a gain of log |logit| each. An element's density is at most about
    L, so results with different limits are not comparable.

    :param maximum_logit: L; by default 16, about the limit of Pyro's own distribution in float32.
    """

    def __init__(self, maximum_logit: float = MAXIMUM_LOGIT) -> None:
        super().__init__()
        self.maximum_logit = checks.positive("maximum_logit", maximum_logit)

    def forward(self, outputs: Tensor) -> dist.Independent:
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
        loc, unconstrained = outputs.chunk(2, dim=-1)
        scale = self.minimum_scale + softplus(unconstrained + UNCONSTRAINED_START)
        return dist.Normal(loc.sigmoid(), scale).to_event(1)


_LEAST_LOG_SCALE, _FIRST_LOG_SCALE = math.log(5e-4), math.log(0.1)  # the smallest is within a level
_LOG_SCALE_START = math.log(math.expm1(_FIRST_LOG_SCALE - _LEAST_LOG_SCALE))


def _log_scale(outputs: Tensor) -> Tensor:
    return _LEAST_LOG_SCALE + softplus(outputs + _LOG_SCALE_START)


class DiscretisedLogisticElements(Elements):
    """x of L levels in [0, 1]: a logistic of location ½ + a and log-scale v, the outputs being a, then all v.

    :param levels: L, 256 for bytes that were divided by 255.
    """

    numbers = 2
    discrete = True

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = checks.count("levels", levels, minimum=2)

    def forward(self, outputs: Tensor) -> dist.Independent:
        loc, log_scale = outputs.chunk(2, dim=-1)
        return DiscretisedLogistic(0.5 + loc, _log_scale(log_scale), self.levels).to_event(1)


class DiscretisedLogisticMixtureElements(Elements):
    """x of L levels in [0, 1]: a mixture of C = 5 logistics, the outputs being C weights, C a and C v each.

    The locations start at 0.1, 0.3, …, 0.9.

    :param levels: L, 256 for bytes that were divided by 255.
    """

    components: ClassVar[int] = 5
    numbers = 3 * components
    discrete = True
    start: Tensor

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = checks.count("levels", levels, minimum=2)
        self.register_buffer("start", torch.linspace(0.1, 0.9, self.components), persistent=False)

    def forward(self, outputs: Tensor) -> dist.Independent:
        parts = outputs.unflatten(-1, (3, self.components, -1)).movedim(-2, -1)
        weights, loc, log_scale = parts.unbind(-3)
        elements = DiscretisedLogistic(self.start.to(loc) + loc, _log_scale(log_scale), self.levels)
        return Mixture(Categorical(logits=weights), elements).to_event(1)


LIKELIHOODS: dict[str, type[Elements]] = {
    "bernoulli": BernoulliElements,
    "continuous-bernoulli": ContinuousBernoulliElements,
    "discretised-logistic": DiscretisedLogisticElements,
    "discretised-logistic-mixture": DiscretisedLogisticMixtureElements,
    "gaussian": GaussianElements,
    "gaussian-per-pixel": PerElementGaussianElements,
}
