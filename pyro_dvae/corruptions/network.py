"""The learned corruption p_π(x̃|x), whose level a network computes from x."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.corruptions.gaussian import GaussianNoise, MultiplicativeNoise
from pyro_dvae.corruptions.replacement import BitFlip, Masking
from pyro_dvae.corruptions.salt_and_pepper import SaltAndPepper
from pyro_dvae.corruptions.swap import SwapNoise
from pyro_dvae.corruptions.thinning import BinomialThinning
from pyro_dvae.errors import InputError

FAMILIES: dict[str, Callable[..., Corruption]] = {
    "bit-flip": BitFlip,
    "gaussian": GaussianNoise,
    "masking": Masking,
    "multiplicative": MultiplicativeNoise,
    "salt-and-pepper": SaltAndPepper,
    "swap": SwapNoise,
    "thinning": BinomialThinning,
}


class NetworkCorruption(Corruption):
    """The corruption of Im et al. (2017, section 3) with its level computed from the observation.

    The level of an element is ``minimum + softplus(raw)`` (``"gaussian"`` and ``"multiplicative"``, a
    standard deviation) or ``minimum + (1 - minimum) * sigmoid(raw)`` (the others, a rate), with ``raw =
    network(x)``. The network gets pathwise gradients from these two and from relaxed noise (``temperature``),
    otherwise score-function gradients. The denoising bound tends to reduce a learned level to ``minimum``; a
    semi-implicit bound (J ≥ 1) does not.

    :param network: module from ``x`` [..., D] to ``raw`` [..., D], or [..., 1] for one level per observation.
    :param family: name of the corruption.
    :param minimum: lower limit of the level.
    :param options: further options of the family: ``salt``, ``temperature``, ``rows``.
    """

    def __init__(self, network: nn.Module, family: str, *, minimum: float = 0.0, **options: Any) -> None:
        super().__init__()
        checks.module("network", network)
        kind = FAMILIES[checks.known("family", family, FAMILIES)]
        accepted = {*inspect.signature(kind).parameters} - {"rate", "scale", "learnable", "minimum"}
        for option in options:
            if option not in accepted:
                names = ", ".join(sorted(accepted)) or "none"
                raise InputError(f"{option}: not an option of the family {family!r}; its options: {names}")
        self.noise = kind(network, minimum=minimum, **options)

    def distribution(self, x: Tensor) -> TorchDistribution:
        return self.noise.distribution(x)
