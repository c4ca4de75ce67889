"""The base class of amortised guides (corruption of the input, plate and sites), and the Gaussian guide."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption, NoCorruption
from pyro_dvae.networks import GaussianEncoder
from pyro_dvae.networks.mlp import last_dimension, trunk
from pyro_dvae.registration import Module, register
from pyro_dvae.sites import corrupt


class AmortisedGuide(Module, ABC):
    """A recognition network as a guide: corrupt ``x``, then draw ``z ~ q(z | x̃)``, given by the subclass.

    Sites: ``x_tilde`` [N, D] (auxiliary) and ``z`` [N, d], inside the plate ``data``. Rows may be images,
    such as [N, C, H, W]. They are flattened for an encoder with an attribute ``data_size``, like the encoders
    of this package; any other encoder gets x̃ as [..., C, H, W].

    A subclass may have other or additional networks as submodules. All are registered with Pyro under their
    attribute names.

    :param encoder: the network of x̃ [..., D] that the subclass needs.
    :param corruption: the corruption of its input; none by default.
    """

    #: Whether q(z | x̃) has its own noise site, so that the semi-implicit bound should train it.
    semi_implicit: ClassVar[bool] = False

    def __init__(self, encoder: nn.Module, corruption: Corruption | None = None) -> None:
        super().__init__()
        self.encoder = checks.module("encoder", encoder)
        corruption = NoCorruption() if corruption is None else corruption
        self.corruption: Corruption = checks.instance(
            "corruption", corruption, Corruption, "a pyro_dvae corruption"
        )

    @classmethod
    @abstractmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
    ) -> AmortisedGuide:
        """Return the guide with fully connected networks of the given sizes."""

    @abstractmethod
    def posterior(self, x_tilde: Tensor) -> TorchDistribution:
        """Return q(z | x̃) of batch shape [...] and event shape [d] for x̃ of [..., D]."""

    def forward(self, x: Tensor) -> Tensor:
        """Sample the corruption and the latent of each row of ``x`` [N, D] or [N, ...]; return z [N, d]."""
        self.register()
        with pyro.plate("data", x.shape[0]) as rows:
            return self.sample(self.corrupted(x, len(rows)))

    def corrupted(self, x: Tensor, rows: int | None = None) -> Tensor:
        """Sample the corruption site of ``x`` [N, ...]; return x̃ in the form that the encoder takes.

        :param rows: N, if ``x`` may have dimensions of draws on the left (from an outer corruption).
        """
        event_dim = event_dimensions(x, getattr(self.encoder, "data_size", None), rows)
        x_tilde = corrupt("x_tilde", self.corruption, x, event_dim)
        return self.encoder_input(x_tilde, event_dim)

    def encoder_input(self, x: Tensor, event_dim: int) -> Tensor:
        """Return ``x`` [..., *event], flat [..., D] if the encoder takes flat rows."""
        return x.flatten(-event_dim) if hasattr(self.encoder, "data_size") else x

    def sample(self, x_tilde: Tensor) -> Tensor:
        """Sample the latents given corrupted data; a guide with several sites overrides this."""
        z: Tensor = pyro.sample("z", self.posterior(x_tilde))
        return z

    def register(self) -> None:
        """Register the parameters of all submodules with Pyro; the corruption gets the name of its site."""
        for name, module in self.named_children():
            register("x_tilde" if module is self.corruption else name, module)


class GaussianGuide(AmortisedGuide):
    """The recognition network of Im et al. (2017): corrupt ``x``, then ``z ~ N(loc(x̃), diag scale(x̃)²)``.

    :param encoder: module from x̃ [..., D] to a pair (loc, scale), each [..., d].
    :param corruption: corruption of the encoder's input; none by default.
    """

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
    ) -> GaussianGuide:
        return cls(GaussianEncoder(data_size, latent_size, hidden_sizes, activation), corruption)

    def posterior(self, x_tilde: Tensor) -> dist.Independent:
        loc, scale = self.encoder(x_tilde)
        return dist.Normal(loc, scale).to_event(1)


def event_dimensions(x: Tensor, data_size: int | None, rows: int | None) -> int:
    """Return the number of dimensions of a row of ``x`` [..., N, *row], at least 1.

    :param data_size: number of values of a row, if the encoder has it.
    :param rows: N, if known.
    """
    possible = range(1, max(2, x.dim()))
    if data_size is not None:
        possible_by_size = (k for k in possible if math.prod(x.shape[-k:]) == data_size)
        return next(possible_by_size, possible[-1])
    if rows is None or len(x) == rows:
        return possible[-1]
    return next((k for k in possible if x.shape[-k - 1] == rows), possible[-1])


class Features(Module):
    """A fully connected network from x̃ [..., data_size] to features [..., hidden_sizes[-1]].

    An activation follows every layer; weights start Glorot uniform, biases at zero.
    """

    def __init__(self, data_size: int, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.data_size = checks.count("data_size", data_size)
        self.trunk = trunk(self.data_size, hidden_sizes, activation)
        self.feature_size = hidden_sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of ``x`` [..., data_size]."""
        last_dimension("x", x, self.data_size, "data_size")
        features: Tensor = self.trunk(x)
        return features
