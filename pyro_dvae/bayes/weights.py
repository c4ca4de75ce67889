"""The diagonal Gaussian over a network's weights."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.bayes.skeleton import trainable
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module

SITE = "decoder"  # sites are named decoder.NAME, as the parameters of a decoder are


class GaussianWeights(Module):
    """``w ~ N(loc, diag scale²)`` with ``scale = softplus(raw)``, for each trainable parameter of a module.

    :param start: the module whose present parameters are the means.
    :param initial_scale: the scale of all weights at the start.
    """

    def __init__(self, start: nn.Module, initial_scale: float) -> None:
        super().__init__()
        scale = checks.positive_single("initial_scale", initial_scale)
        raw = scale + math.log(-math.expm1(-scale))
        values = {name: value.detach().clone() for name, value in trainable(start).items()}
        if not values:
            raise InputError("start: expected a module with trainable parameters, got none")
        self.names = list(values)
        # A dot ends a module's name.
        self.loc = nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in values.items()})
        self.raw = nn.ParameterDict(
            {_key(name): nn.Parameter(torch.full_like(value, raw)) for name, value in values.items()}
        )

    def means(self) -> dict[str, Tensor]:
        """Return the means by the names of the weights."""
        return {name: self.loc[_key(name)] for name in self.names}

    def scales(self) -> dict[str, Tensor]:
        """Return the standard deviations by the names of the weights."""
        return {name: softplus(self.raw[_key(name)]) for name in self.names}

    def distributions(self) -> dict[str, dist.Independent]:
        """Return q of each weight, all of its dimensions in the event."""
        scales = self.scales()
        return {
            name: dist.Normal(loc, scales[name]).to_event(loc.dim()) for name, loc in self.means().items()
        }

    def sample(self) -> dict[str, Tensor]:
        """Sample the weights as Pyro sites."""
        return {name: pyro.sample(f"{SITE}.{name}", q) for name, q in self.distributions().items()}

    def draw(self, draws: torch.Size) -> dict[str, Tensor]:
        """Draw weights that are no Pyro sites, each [*draws, 1, *shape]."""
        return {name: q.rsample((*draws, 1)) for name, q in self.distributions().items()}


def _key(name: str) -> str:
    return name.replace(".", "/")
