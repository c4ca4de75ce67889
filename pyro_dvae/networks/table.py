"""Networks of a table: encoder and decoder for columns of several kinds, and a model of the mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.networks.columns import Column, TableElements, column_groups, column_kinds, table_features
from pyro_dvae.networks.decoders import Decoder
from pyro_dvae.networks.encoders import Encoder
from pyro_dvae.networks.mlp import linear, trunk


class TableDecoder(Decoder):
    """Independent columns of the kinds named: ``log p(x | z) = Σ_j log p_j(x_j | a_j)``, a = W h + b.

    =================  ==========================================================================
    ``"real"``         N(a, σ²), for standardised reals
    ``"heavy-tailed"`` a + σ Student-t(ν)
    ``"positive"``     log-normal: log x ~ N(a, σ²)
    ``"binary"``       Bernoulli(sigmoid(a)), cells 0 and 1
    ``"count"``        negative binomial of mean exp(a)
    ``"categorical"``  softmax of K outputs, cells 0 … K − 1; written ``("categorical", K)``
    ``"ordinal"``      cumulative logits: P(x ≤ k) = sigmoid(c_k − a); written ``("ordinal", K)``
    =================  ==========================================================================

    Scales σ, degrees of freedom ν, cutpoints c and dispersions are learned, one for each column. ``z`` is
    ``[..., latent_size]``, h = trunk(z); the result has batch shape ``[...]`` and event shape ``[columns]``.
    The corruption for all kinds is :class:`~pyro_dvae.corruptions.SwapNoise`.

    :param columns: the kind of each column.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
    ) -> None:
        super().__init__(len(column_kinds(columns)), latent_size)
        likelihood = TableElements(columns)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], sum(likelihood.sizes))
        self.likelihood = likelihood


class TableEncoder(Encoder):
    """Fully connected recognition network of a table: h = trunk(features of the columns).

    Categories become one-hot vectors, positive amounts logarithms, counts log(1 + x) and ordered levels
    numbers from −1 to 1. ``x`` is ``[..., columns]``; location and scale are ``[..., latent_size]``.

    :param columns: the kind of each column, as for :class:`TableDecoder`.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
    ) -> None:
        super().__init__(len(column_kinds(columns)), latent_size)
        self.groups = column_groups(columns)
        size = table_features(self.groups, torch.zeros(self.data_size)).shape[-1]
        self.trunk = trunk(size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], 2 * self.latent_size)

    def features(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.trunk(table_features(self.groups, x))
        return hidden


class SelfMasking(nn.Module):
    """A model of the mask in which a cell's own value decides: logit p(s_j = 1 | x) = a_j + b_j x_j.

    A value may be missing because it is high or low (Ipsen et al. 2021). Initially a = b = 0.

    :param data_size: D, the columns of a row.
    """

    def __init__(self, data_size: int) -> None:
        super().__init__()
        size = checks.count("data_size", data_size)
        self.intercept = nn.Parameter(torch.zeros(size))
        self.slope = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return for each cell of rows [..., D] the logit of being observed."""
        return self.intercept + self.slope * x
