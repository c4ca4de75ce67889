"""A normalising flow after a Gaussian recognition network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.errors import InputError
from pyro_dvae.guides.autoregressive import autoregressive_flow
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.guides.features import Features
from pyro_dvae.guides.planar import planar_flow
from pyro_dvae.networks.mlp import last_dimension, linear

FLOWS: dict[str, Callable[[int, int, int], nn.ModuleList]] = {
    "iaf": autoregressive_flow,
    "planar": planar_flow,
}


class FlowGuide(AmortisedGuide):
    """``z = f_T ∘ … ∘ f_1 (z_0)``, ``z_0 ~ N(μ(x̃), diag σ(x̃)²)`` (Rezende and Mohamed 2015)::

        log q(z|x̃) = log N(z_0; μ, σ²) − Σ_t log |det ∂f_t / ∂z_{t−1}|

    The features h = encoder(x̃) give μ and log σ² by one affine layer, and are the context of every f_t: the
    parameters of a planar layer are affine in h, as in the paper; those of an inverse autoregressive layer
    (Kingma et al. 2016, gated: eq. 14) come from a masked network of (h, z_{t−1}).

    Each run conditions the layers anew, so nothing that Pyro's transforms keep of one run reaches another.
    Both kinds can also score latents that they did not draw, as mixtures over corruptions and the
    semi-implicit bound ask: a planar layer by a numerical inverse, an autoregressive one in d passes of its
    network.

    :param encoder: module from x̃ [..., D] to features [..., H].
    :param feature_size: H.
    :param latent_size: d.
    :param flows: the layers f_1 … f_T: Pyro's conditional transforms of vectors with a context of size H.
    :param corruption: the corruption.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        latent_size: int,
        flows: Sequence[nn.Module] | nn.ModuleList,
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__(encoder, corruption)
        self.feature_size = checks.count("feature_size", feature_size)
        self.latent_size = checks.count("latent_size", latent_size)
        for layer in checks.modules("flows", flows):
            if not isinstance(layer, ConditionalTransformModule):
                kind = type(layer).__name__
                raise InputError(f"flows: expected conditional transforms of Pyro, got {kind}")
        self.head = linear(feature_size, 2 * latent_size)
        self.flows = nn.ModuleList(flows)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
        flow: str = "planar",
        flows: int = 4,
    ) -> FlowGuide:
        """Return the guide with fully connected networks of these sizes.

        :param flow: ``"planar"`` or ``"iaf"``.
        :param flows: T, the number of layers.
        """
        encoder = Features(data_size, hidden_sizes, activation)
        build = FLOWS[checks.known("flow", flow, FLOWS)]
        checks.count("latent_size", latent_size)
        layers = build(checks.count("flows", flows), latent_size, encoder.feature_size)
        return cls(encoder, encoder.feature_size, latent_size, layers, corruption)

    def posterior(self, x_tilde: Tensor) -> dist.TransformedDistribution:
        features = self.encoder(x_tilde)
        last_dimension("encoder", features, self.feature_size, "feature_size")
        loc, log_variance = self.head(features).chunk(2, dim=-1)
        start = dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)
        layers: Any = self.flows
        return dist.TransformedDistribution(start, [layer.condition(features) for layer in layers])
