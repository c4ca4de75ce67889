"""Gaussian guides with a full covariance, and mixtures of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.distributions.mixture import DiagonalMixture
from pyro_dvae.guides.base import AmortisedGuide, Features
from pyro_dvae.networks.mlp import last_dimension, linear
from pyro_dvae.networks.sizes import stated


class FullCovarianceGuide(AmortisedGuide):
    """``z ~ N(μ(x̃), L(x̃) L(x̃)ᵀ)`` with L lower triangular (Kingma and Welling 2019, section 2.5.1).

    Affine layers of the features h = encoder(x̃) give::

        μ,    log L_ii²,    d L_ij (i > j)

    The layer for L_ij starts at zero, so training starts from the diagonal Gaussian. It has d (d − 1) / 2
    outputs, and a density takes d² operations. An Adam step changes all outputs by about the same amount;
    without the factor d it would change a row of L much more than its diagonal.

    :param encoder: module from x̃ [..., D] to features [..., H].
    :param feature_size: H.
    :param latent_size: d.
    :param corruption: corruption of the encoder's input; none by default.
    """

    below: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        latent_size: int,
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__(encoder, corruption)
        self.feature_size = checks.count("feature_size", feature_size)
        checks.one_size("size", {"encoder": stated(encoder, "feature_size"), "feature_size": feature_size})
        self.latent_size = checks.count("latent_size", latent_size)
        self.head = linear(feature_size, 2 * latent_size)
        count = latent_size * (latent_size - 1) // 2
        self.covariance_head = linear(feature_size, count) if count else None
        if self.covariance_head is not None:
            nn.init.zeros_(self.covariance_head.weight)
        # Positions of the elements of the matrix in [L_ij..., 0], row by row: elements on and above the
        # diagonal are the 0.
        below = torch.full((latent_size, latent_size), count)
        rows, columns = torch.tril_indices(latent_size, latent_size, -1)
        below[rows, columns] = torch.arange(count)
        self.register_buffer("below", below.flatten(), persistent=False)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
    ) -> FullCovarianceGuide:
        encoder = Features(data_size, hidden_sizes, activation)
        return cls(encoder, encoder.feature_size, latent_size, corruption)

    def posterior(self, x_tilde: Tensor) -> dist.MultivariateNormal:
        features = self.encoder(x_tilde)
        last_dimension("encoder", features, self.feature_size, "feature_size")
        loc, log_variance = self.head(features).chunk(2, dim=-1)
        scale_tril = torch.diag_embed((0.5 * log_variance).exp())
        if self.covariance_head is not None:
            outputs = nn.functional.pad(self.covariance_head(features) / self.latent_size, (0, 1))
            square = (self.latent_size, self.latent_size)
            scale_tril = scale_tril + outputs.index_select(-1, self.below).unflatten(-1, square)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class MixtureGuide(AmortisedGuide):
    """``z ~ Σ_c π_c(x̃) N(z; μ_c(x̃), diag σ_c(x̃)²)``: several modes for an observation (Graves 2016).

    With features h = encoder(x̃), one affine layer of h gives the logits of π, and another gives all μ_c and
    log σ_c². All gradients are pathwise, including those of π: see
    :class:`~pyro_dvae.distributions.mixture.DiagonalMixture`.

    :param encoder: module from x̃ [..., D] to features [..., H].
    :param feature_size: H.
    :param latent_size: d.
    :param components: C, the number of Gaussians.
    :param corruption: corruption of the encoder's input; none by default.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        latent_size: int,
        components: int = 5,
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__(encoder, corruption)
        self.feature_size = checks.count("feature_size", feature_size)
        checks.one_size("size", {"encoder": stated(encoder, "feature_size"), "feature_size": feature_size})
        self.latent_size = checks.count("latent_size", latent_size)
        self.components = checks.count("components", components, minimum=2)
        self.weight_head = linear(feature_size, components)
        self.head = linear(feature_size, 2 * components * latent_size)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
        components: int = 5,
    ) -> MixtureGuide:
        encoder = Features(data_size, hidden_sizes, activation)
        return cls(encoder, encoder.feature_size, latent_size, components, corruption)

    def posterior(self, x_tilde: Tensor) -> DiagonalMixture:
        features = self.encoder(x_tilde)
        last_dimension("encoder", features, self.feature_size, "feature_size")
        outputs = self.head(features).unflatten(-1, (self.components, 2 * self.latent_size))
        loc, log_variance = outputs.chunk(2, dim=-1)
        return DiagonalMixture(self.weight_head(features), loc, (0.5 * log_variance).exp())
