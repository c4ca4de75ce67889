"""The sources of draws of the slow implementation, and the log-densities written out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class GridTooLargeError(Exception):
    """The grid would be too large."""


class Given:
    """Gives recorded values by key; a normal variable as a function of its location and scale."""

    def __init__(self, values: dict[tuple, Tensor]) -> None:
        self.values = values
        self.scores = False  # whether a value does not carry the whole gradient

    def normal(self, key, loc, scale, inverse):
        value = inverse(self.values[key])
        noise = ((value - loc) / scale).detach()
        return loc + scale * noise

    def choice(self, key, points, probabilities):
        self.scores |= any(isinstance(each, Tensor) and each.requires_grad for each in probabilities)
        return self.values[key]

    def density(self, key, grid, log_density):
        self.scores = True
        return self.values[key]


class Grid:
    """Puts each variable on an axis of its own; ``weight`` is the probability of the points."""

    def __init__(self, nodes: int, limit: int) -> None:
        self.nodes, self.limit = nodes, limit
        self.axes, self.size = 0, 1
        self.weight: Tensor = torch.ones(())

    def _axis(self, points: Tensor) -> Tensor:
        self.size *= len(points)
        if self.size > self.limit:
            raise GridTooLargeError
        points = points.reshape(-1, *[1] * self.axes)
        self.axes += 1
        return points

    def normal(self, key, loc, scale, inverse):
        points, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
        axis = self._axis(torch.as_tensor(points))
        self.weight = self.weight * torch.as_tensor(weights / weights.sum()).reshape(axis.shape)
        return loc + scale * axis

    def choice(self, key, points, probabilities):
        before = self.axes
        axis = self._axis(torch.arange(len(points)))
        wide = [torch.as_tensor(p, dtype=torch.float64) for p in probabilities]
        wide = [p.reshape((1,) * (before - p.dim()) + p.shape) for p in torch.broadcast_tensors(*wide)]
        self.weight = self.weight * torch.stack(wide)
        values = [torch.as_tensor(v, dtype=torch.float64) for v in points]
        values = [v.reshape((1,) * (before - v.dim()) + v.shape) for v in torch.broadcast_tensors(*values)]
        assert axis.dim() == before + 1
        return torch.stack(values)

    def density(self, key, grid, log_density):
        points, widths = grid
        axis = self._axis(points)
        self.weight = self.weight * log_density(axis).exp() * widths.reshape(axis.shape)
        return axis


def log_density(family: str, value: Tensor, eta: Tensor, s: Tensor) -> Tensor:
    """Return the log-density of a family, written out."""
    if family == "normal":
        return -0.5 * ((value - eta) / s.exp()) ** 2 - s - 0.5 * math.log(2 * math.pi)
    if family in ("lognormal", "transformed"):
        width = 0.5 * s.exp()
        t = value.log()
        return -0.5 * ((t - 0.3 * eta) / width) ** 2 - width.log() - 0.5 * math.log(2 * math.pi) - t
    if family == "gamma":
        a, b = 2 * (0.3 * eta).exp(), 1 + s.exp()
        return a * b.log() - torch.lgamma(a) + (a - 1) * value.log() - b * value
    if family == "beta":
        a, b = 1 + (0.3 * eta).exp(), 1 + s.exp()
        normaliser = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return normaliser + (a - 1) * value.log() + (b - 1) * (1 - value).log()
    if family == "bernoulli":
        p = torch.sigmoid(eta)
        return value * p.log() + (1 - value) * (1 - p).log()
    if family == "categorical":
        wide = torch.broadcast_tensors(value, 0 * eta, eta, s)
        logits = torch.stack(wide[1:])
        logits = logits - torch.logsumexp(logits, 0)
        return sum(logits[i] * (wide[0] == i) for i in range(3))
    assert family == "delta"
    return 0 * (value + eta)


def grid_of(family: str) -> tuple[Tensor, Tensor]:
    """Return points and widths for a gamma (by its logarithm) or a beta (by its logit) variable."""
    t = torch.linspace(-24, 5, 117) if family == "gamma" else torch.linspace(-20, 20, 121)
    step = t[1] - t[0]
    if family == "gamma":
        return t.exp(), t.exp() * step
    p = torch.sigmoid(t)
    return p, p * (1 - p) * step
