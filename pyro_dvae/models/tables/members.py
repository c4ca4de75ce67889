"""What a model of a table is made of: generative models that give any cells from any others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor

from pyro_dvae.distributions.gaussian_mixture import GaussianMixture


@dataclass(frozen=True)
class Given:
    """Rows completed by one member, in its standardised units.

    :param mean: [N, D], observed cells as they are.
    :param draws: [R, N, D].
    :param log_likelihood: log p(x_observed), [N] (nats).
    """

    mean: Tensor
    draws: Tensor
    log_likelihood: Tensor


class TableMember(Protocol):
    """A Pyro model of standardised rows, and its conditionals."""

    @property
    def name(self) -> str:
        """Say what it is."""

    def model(self, x: Tensor) -> Any:
        """Observe rows [N, D] in the plate ``data``."""

    def given(self, x: Tensor, num_draws: int) -> Given:
        """Complete rows [N, D] with NaN in missing cells."""

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p(x_observed) of the rows, [N] (nats)."""


@dataclass(frozen=True)
class MixtureMember:
    """A mixture of Gaussians: each conditional is exact.

    :param name: says what it is.
    :param mixture: of standardised rows.
    """

    name: str
    mixture: GaussianMixture

    def model(self, x: Tensor) -> None:
        """Observe rows [N, D] in the plate ``data``; there are no latents, so the guide is empty."""
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.mixture, obs=x)

    def given(self, x: Tensor, num_draws: int) -> Given:
        """Complete rows [N, D] with NaN in missing cells."""
        seen = ~x.isnan()
        filled = torch.where(seen, x, 0.0)
        draws = self.mixture.drawn(filled, seen, num_draws) if num_draws else filled.new_empty(0, *x.shape)
        return Given(self.mixture.expected(filled, seen), draws, self.log_likelihood(x))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p(x_observed) of the rows, [N] (nats)."""
        return self.mixture.observed_log_prob(x.nan_to_num(), ~x.isnan())
