"""A Beta prior with shapes below 1: binary codes."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.distributions import LogitBeta
from pyro_dvae.errors import InputError
from pyro_dvae.priors.base import Prior


class SparseBeta(Prior):
    """Each latent's code ``b = σ(z)`` in (0, 1) is ``Beta(a, c)`` with shapes below 1: dense near 0 and 1.

    The latent is the logit ``z``, as ``b`` itself cannot be told from 1 where most of its mass lies (see
    :class:`~pyro_dvae.distributions.LogitBeta`): a guide that clamps it there is scored at a value that it
    did not draw, and the bound is none. So any guide over the reals serves, unchanged: under
    :class:`~pyro_dvae.guides.GaussianGuide` the code is logit-normal. A bound does not depend on which of the
    two is called the latent. The decoder sees ``b``, by :meth:`code`.

    :param latent_size: d.
    :param shapes: (a, c), each in (0, 1); a below c puts more of the codes near 0.
    """

    def __init__(self, latent_size: int, shapes: tuple[float, float] = (0.5, 0.5)) -> None:
        super().__init__(latent_size)
        if not isinstance(shapes, tuple | list) or len(shapes) != 2:
            raise InputError(f"shapes: expected a pair of numbers in (0, 1), got {shapes!r}")
        self.shapes = (_below_one(shapes[0]), _below_one(shapes[1]))

    def forward(self, like: Tensor) -> dist.Independent:
        one, zero = (like.new_full((self.latent_size,), shape) for shape in self.shapes)
        return LogitBeta(one, zero).to_event(1)

    def code(self, z: Tensor) -> Tensor:
        return z.sigmoid()


def _below_one(shape: float) -> float:
    value = checks.positive_single("shapes", shape)
    if value >= 1:
        raise InputError(
            f"shapes: expected numbers below 1, where the density peaks at 0 and 1, got {shape!r}"
        )
    return value
