"""Inverse autoregressive flows whose context a datum gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError


class ConditionedAutoregressive(AffineAutoregressive):
    """Pyro's gated layer ``y = σ x + (1 − σ) m`` with (m, σ) autoregressive in x, at a context.

    Pyro's own way to condition keeps the order of the latents in a tensor, which a recording cannot look
    at, and inverts only points that have all the dimensions of the context.
    """

    def __init__(self, network: nn.Module, context: Tensor, order: Sequence[int]) -> None:
        at_context: Any = partial(network, context=context)
        at_context.permutation = order
        self._lead = context.shape[:-1]
        super().__init__(at_context, stable=True)

    def _inverse_stable(self, y: Tensor) -> Any:
        lead = torch.broadcast_shapes(self._lead, y.shape[:-1])
        return super()._inverse_stable(y.expand(*lead, -1))


class AmortisedAutoregressive(ConditionalTransformModule):
    """A layer of inverse autoregressive flow with a masked network of one hidden layer.

    :param latent_size: d, at least 2.
    :param context_size: H.
    :param hidden_size: of the masked network, at least d.
    :param backwards: whether the last latent comes first.
    """

    def __init__(self, latent_size: int, context_size: int, hidden_size: int, backwards: bool) -> None:
        super().__init__()
        order = range(checks.count("latent_size", latent_size))
        self.order = list(reversed(order) if backwards else order)
        checks.count("hidden_size", hidden_size, minimum=latent_size)
        self.network = ConditionalAutoRegressiveNN(
            latent_size,
            checks.count("context_size", context_size),
            [hidden_size],
            permutation=torch.tensor(self.order),
        )

    def condition(self, context: Tensor) -> Any:
        """Return the transform for a context [..., H]."""
        return ConditionedAutoregressive(self.network, context, self.order)


def autoregressive_flow(count: int, latent_size: int, context_size: int) -> nn.ModuleList:
    """Return ``count`` layers, each with the latents in the opposite order of the one before."""
    if latent_size == 1:
        raise InputError("latent_size: expected at least 2 latents for flow='iaf', got 1; use flow='planar'")
    hidden_size = max(context_size, latent_size)
    return nn.ModuleList(
        AmortisedAutoregressive(latent_size, context_size, hidden_size, backwards=index % 2 == 1)
        for index in range(count)
    )
