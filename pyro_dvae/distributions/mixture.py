"""A mixture that says where its values lie."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist


class Mixture(dist.MixtureSameFamily):
    """Pyro's mixture of distributions of one kind; its support is theirs, that of every component.

    Pyro's own support has no bijection to it, so that annealing cannot move such a latent.
    """

    @property
    def support(self) -> Any:
        """The support of the components, the same for all."""
        return self.component_distribution.support
