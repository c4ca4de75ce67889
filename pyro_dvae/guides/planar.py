"""Planar flows whose parameters a datum gives, with the inverse that Pyro's lacks."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.transforms.planar import ConditionedPlanar
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.networks.mlp import linear

_HALVINGS = 24  # of an interval of the size of the layer's shift; two Newton steps follow


class InvertiblePlanar(ConditionedPlanar):
    """Pyro's planar transform ``y = x + û tanh(w·x + b)`` with w·û > −1, and its inverse.

    With α = w·x the inverse is one equation for each point, ``α + (w·û) tanh(α + b) = w·y``, whose left side
    increases. It is solved by a fixed number of halvings, so that the work depends on no value, and two
    Newton steps, of which the last carries the gradient.
    """

    def _inverse(self, y: Tensor) -> Tensor:
        bias, u, w = self._params
        u_hat = self.u_hat(u, w)
        slope = (w * u_hat).sum(-1, keepdim=True)
        target = (w * y).sum(-1, keepdim=True)
        with torch.no_grad():
            low, high = target - slope.abs(), target + slope.abs()
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                below = middle + slope * torch.tanh(middle + bias) < target
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            root = 0.5 * (low + high)
            root = root - (root + slope * torch.tanh(root + bias) - target) / _slope(root, slope, bias)
            derivative = _slope(root, slope, bias)
        alpha = root - (root + slope * torch.tanh(root + bias) - target) / derivative
        x = y - u_hat * torch.tanh(alpha + bias)
        self._call(x)  # Pyro keeps the determinant of the latest call beside the pair (x, y)
        return x


def _slope(alpha: Tensor, slope: Tensor, bias: Tensor) -> Tensor:
    """Return the derivative of α + slope · tanh(α + b)."""
    return 1 + slope * (1 - torch.tanh(alpha + bias).square())


class AmortisedPlanar(ConditionalTransformModule):
    """A planar layer with b, u and w affine in the context.

    :param latent_size: d.
    :param context_size: H.
    """

    def __init__(self, latent_size: int, context_size: int) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)
        self.head = linear(checks.count("context_size", context_size), 1 + 2 * latent_size)
        # Away from w = 0, where the layer has no direction; as Pyro's unconditional layer starts.
        limit = 1.0 / math.sqrt(latent_size)
        with torch.no_grad():
            self.head.bias[1:].uniform_(-limit, limit)

    def condition(self, context: Tensor) -> Any:
        """Return the transform for a context [..., H]."""
        return InvertiblePlanar(self.head(context).split([1, self.latent_size, self.latent_size], dim=-1))


def planar_flow(count: int, latent_size: int, context_size: int) -> nn.ModuleList:
    """Return ``count`` planar layers."""
    return nn.ModuleList(AmortisedPlanar(latent_size, context_size) for _ in range(count))
