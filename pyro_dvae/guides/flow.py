"""Guides with a normalising flow after a Gaussian: planar and inverse autoregressive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.transforms import AffineAutoregressive
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import AmortisedGuide, Features
from pyro_dvae.networks.mlp import last_dimension, linear
from pyro_dvae.networks.sizes import stated

_HALVINGS = 24  # bisections of an interval as large as the layer's shift; two Newton steps follow


class InvertiblePlanar(ConditionedPlanar):
    """Pyro's planar transform ``y = x + û tanh(w·x + b)`` with w·û > −1, and its inverse.

    With α = w·x the inverse solves one equation for each point, ``α + (w·û) tanh(α + b) = w·y``, whose left
    side increases. A fixed number of bisections makes the work independent of the values. Two Newton steps
    follow; the last one carries the gradient.
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
        self._call(x)  # Pyro stores the determinant of the latest call with the pair (x, y)
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
        self.context_size = checks.count("context_size", context_size)
        self.head = linear(context_size, 1 + 2 * latent_size)
        # Not w = 0, where the layer has no direction; the same start as Pyro's unconditional layer.
        limit = 1.0 / math.sqrt(latent_size)
        with torch.no_grad():
            self.head.bias[1:].uniform_(-limit, limit)

    def condition(self, context: Tensor) -> Any:
        """Return the transform for a context [..., H]."""
        return InvertiblePlanar(self.head(context).split([1, self.latent_size, self.latent_size], dim=-1))


def planar_flow(count: int, latent_size: int, context_size: int) -> nn.ModuleList:
    """Return ``count`` planar layers."""
    return nn.ModuleList(AmortisedPlanar(latent_size, context_size) for _ in range(count))


class ConditionedAutoregressive(AffineAutoregressive):
    """Pyro's gated layer ``y = σ x + (1 − σ) m`` with (m, σ) autoregressive in x, at a context.

    Pyro's own conditioning stores the order of the latents in a tensor, whose values cannot be read in a
    recording, and inverts only points with all dimensions of the context.
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
    :param hidden_size: units of the masked network, at least d.
    :param backwards: whether to reverse the order of the latents.
    """

    def __init__(self, latent_size: int, context_size: int, hidden_size: int, backwards: bool) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)
        self.context_size = checks.count("context_size", context_size)
        order = range(latent_size)
        self.order = list(reversed(order) if backwards else order)
        hidden_size = checks.count("hidden_size", hidden_size, minimum=latent_size)
        self.network = ConditionalAutoRegressiveNN(
            latent_size,
            context_size,
            [hidden_size],
            permutation=torch.tensor(self.order),
        )

    def condition(self, context: Tensor) -> Any:
        """Return the transform for a context [..., H]."""
        return ConditionedAutoregressive(self.network, context, self.order)


def autoregressive_flow(count: int, latent_size: int, context_size: int) -> nn.ModuleList:
    """Return ``count`` layers; the order of the latents alternates."""
    if latent_size == 1:
        raise InputError("latent_size: expected at least 2 latents for flow='iaf', got 1; use flow='planar'")
    hidden_size = max(context_size, latent_size)
    return nn.ModuleList(
        AmortisedAutoregressive(latent_size, context_size, hidden_size, backwards=index % 2 == 1)
        for index in range(count)
    )


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

    Each run conditions the layers anew, so no cache of Pyro's transforms is carried over between runs. Both
    kinds can also score latents that they did not draw, as mixtures over corruptions and the semi-implicit
    bound require. A planar layer uses a numerical inverse, and an autoregressive layer d passes of its
    network.

    :param encoder: module from x̃ [..., D] to features [..., H].
    :param feature_size: H.
    :param latent_size: d.
    :param flows: the layers f_1 … f_T: Pyro's conditional transforms of vectors with a context of size H.
    :param corruption: corruption of the encoder's input; none by default.
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
        checks.one_size("size", {"encoder": stated(encoder, "feature_size"), "feature_size": feature_size})
        self.latent_size = checks.count("latent_size", latent_size)
        for number, layer in enumerate(checks.modules("flows", flows)):
            if not isinstance(layer, ConditionalTransformModule):
                kind = type(layer).__name__
                raise InputError(f"flows: expected conditional transforms of Pyro, got {kind}")
            for size in ("latent_size", "context_size"):
                own = latent_size if size == "latent_size" else feature_size
                checks.one_size(size, {"guide": own, f"flows[{number}]": stated(layer, size)})
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
        latent_size = checks.count("latent_size", latent_size)
        layers = build(checks.count("flows", flows), latent_size, encoder.feature_size)
        return cls(encoder, encoder.feature_size, latent_size, layers, corruption)

    def posterior(self, x_tilde: Tensor) -> dist.TransformedDistribution:
        features = self.encoder(x_tilde)
        last_dimension("encoder", features, self.feature_size, "feature_size")
        loc, log_variance = self.head(features).chunk(2, dim=-1)
        start = dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)
        layers: Any = self.flows
        return dist.TransformedDistribution(start, [layer.condition(features) for layer in layers])
