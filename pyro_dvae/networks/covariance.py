"""Gaussian decoders whose columns covary; missing cells given observed ones have a closed form.

The corruption for them is :class:`~pyro_dvae.corruptions.GaussianNoise`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.distributions.gaps import Completed, completed, completed_by_factors
from pyro_dvae.errors import InputError
from pyro_dvae.networks.decoders import Decoder
from pyro_dvae.networks.mlp import last_dimension, linear, trunk


class CovarianceDecoder(Decoder):
    """The base of decoders x ~ N(W h + b, Σ), with one Σ for all rows; a subclass defines Σ.

    ``z`` is ``[..., latent_size]``, h = trunk(z); the result has batch shape ``[...]`` and event shape
    ``[data_size]``. If the latents are not used, this is the Gaussian model of the columns.
    """

    head: nn.Linear

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        covariance: Tensor | None = None,
        loc: Tensor | None = None,
    ) -> None:
        super().__init__(data_size, latent_size)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)
        self.make_covariance()
        if covariance is not None:
            self._start(_positive_definite(covariance, self.data_size))
        if loc is not None:
            checks.finite("loc", checks.floating("loc", loc))
            if loc.shape != (self.data_size,):
                raise InputError(f"loc: expected shape ({self.data_size},), got {tuple(loc.shape)}")
            with torch.no_grad():
                self.head.bias.copy_(loc)

    @property
    def discrete(self) -> bool:
        return False

    def conditional(self, z: Tensor, x: Tensor, observed: Tensor | None = None) -> Completed:
        """Return p(x_missing | z, x_observed) as mean and covariance, and log p(x_observed | z).

        :param z: latents, [..., latent_size].
        :param x: rows with NaN in missing cells, [..., data_size], of any pattern in each row.
        :param observed: which cells are observed, boolean; by default those that are not NaN.
        :returns: mean [..., D], with observed cells unchanged; covariance [..., D, D], zero for observed
            cells; log-density [...] (nats).
        """
        last_dimension("z", z, self.latent_size, "latent_size")
        last_dimension("x", x, self.data_size, "data_size")
        return self.complete(self.head(self.trunk(z)), x, observed)

    def start_at(self, rows: Tensor, ridge: float = 0.01) -> None:
        """Set b and Σ to the mean and covariance of some rows, as the start of training.

        :param rows: [N, D], with NaN in missing cells, which count as the mean of their column.
        :param ridge: number added to the variances, as a share of their mean.
        """
        last_dimension("rows", rows, self.data_size, "data_size")
        found = rows.detach().reshape(-1, self.data_size).double()
        loc = found.nanmean(0).nan_to_num()
        centred = (found - loc).nan_to_num()
        covariance = centred.mT @ centred / max(len(centred), 1)
        scale = float(covariance.diagonal().mean()) or 1.0
        self._start(covariance + checks.positive("ridge", ridge) * scale * torch.eye(len(loc)).to(covariance))
        with torch.no_grad():
            self.head.bias.copy_(loc)

    def _start(self, covariance: Tensor) -> None:
        with torch.no_grad():
            self.head.weight.mul_(0.01)  # so that the model starts near that Gaussian
            self.set_covariance(covariance)

    @abstractmethod
    def make_covariance(self) -> None:
        """Make the parameters of Σ."""

    @abstractmethod
    def set_covariance(self, covariance: Tensor) -> None:
        """Set Σ to a positive definite matrix [D, D] in double precision, at least approximately."""

    @abstractmethod
    def complete(self, loc: Tensor, x: Tensor, observed: Tensor | None) -> Completed:
        """Return the conditional of rows with mean ``loc`` [..., D]."""

    @abstractmethod
    def gaussian(self, loc: Tensor) -> TorchDistribution:
        """Return N(loc, Σ)."""

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return p(x | z) with event shape ``[data_size]`` for ``z`` of ``[..., latent_size]``."""
        last_dimension("z", z, self.latent_size, "latent_size")
        return self.gaussian(self.head(self.trunk(z)))


def _validation(loc: Tensor) -> bool | None:
    """Return Pyro's setting of validation, but False for 0 rows, which PyTorch would refuse."""
    return None if loc.numel() else False


def _unconstrained(variance: Tensor) -> Tensor:
    """Return u of v = 10⁻⁶ + softplus(u)."""
    above = variance.double() - 1e-6
    return above + torch.log(-torch.expm1(-above))


def _positive_definite(covariance: Tensor, size: int) -> Tensor:
    """Check a covariance [D, D], and return it in double precision."""
    checks.finite("covariance", checks.floating("covariance", covariance))
    if covariance.shape != (size, size):
        raise InputError(f"covariance: expected shape ({size}, {size}), got {tuple(covariance.shape)}")
    found = covariance.detach().double()
    scale = found.abs().max()
    if not torch.allclose(found, found.mT, rtol=0, atol=1e-5 * float(scale)):
        raise InputError("covariance: expected a symmetric matrix; give (c + c.T) / 2")
    found = (found + found.mT) / 2
    if int(torch.linalg.cholesky_ex(found).info):
        raise InputError("covariance: expected a positive definite matrix; add a ridge to its diagonal")
    return found


class FullCovarianceDecoder(CovarianceDecoder):
    """x ~ N(W h + b, L Lᵀ), with one lower triangular L for all rows, learned from a given start.

    ``z`` is ``[..., latent_size]``, h = trunk(z); the result has batch shape ``[...]`` and event shape
    ``[data_size]``. It nests the multivariate Gaussian, which is hard to beat on small tables.

    :param covariance: initial L Lᵀ, [D, D], such as the estimate of a Gaussian model; by default the
        identity.
    :param loc: initial b, [D]; by default zeros.
    """

    start: Tensor

    def make_covariance(self) -> None:
        # Not torch.eye, which takes seconds on the meta device that counts sizes.
        self.register_buffer("start", torch.zeros(self.data_size, self.data_size).fill_diagonal_(1.0))
        self.log_diagonal = nn.Parameter(torch.zeros(self.data_size))
        self.below = nn.Parameter(torch.zeros(self.data_size, self.data_size))

    def set_covariance(self, covariance: Tensor) -> None:
        self.start.copy_(torch.linalg.cholesky(covariance))
        self.log_diagonal.zero_()
        self.below.zero_()

    @property
    def scale_tril(self) -> Tensor:
        """L, [D, D]: the initial L times a learned lower triangular matrix that starts as the identity.

        Adam's steps have the same size for all elements, too large for the smallest elements of L itself.
        """
        return self.start @ (self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp()))

    @property
    def covariance(self) -> Tensor:
        """Σ = L Lᵀ, [D, D]."""
        tril = self.scale_tril
        return tril @ tril.mT

    def gaussian(self, loc: Tensor) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(loc, scale_tril=self.scale_tril, validate_args=_validation(loc))

    def complete(self, loc: Tensor, x: Tensor, observed: Tensor | None) -> Completed:
        return completed(loc, self.covariance, x, observed)


class LowRankCovarianceDecoder(CovarianceDecoder):
    """x ~ N(W h + b, F Fᵀ + diag(v)), with r factors F [D, r] and variances v for all rows.

    For many columns: a density takes D r² operations. ``z`` is ``[..., latent_size]``, h = trunk(z); the
    result has batch shape ``[...]`` and event shape ``[data_size]``. v is 10⁻⁶ + softplus(u).

    :param rank: r.
    :param covariance: initial Σ, [D, D]: F takes its leading principal axes, v the rest of its diagonal; by
        default the identity, with small random F.
    :param loc: initial b, [D]; by default zeros.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        rank: int = 5,
        covariance: Tensor | None = None,
        loc: Tensor | None = None,
    ) -> None:
        self.rank = checks.count("rank", rank, maximum=checks.count("data_size", data_size))
        super().__init__(data_size, latent_size, hidden_sizes, activation, covariance=covariance, loc=loc)

    def make_covariance(self) -> None:
        factors = 0.1 * torch.randn(self.data_size, self.rank, dtype=torch.float64) / math.sqrt(self.rank)
        kind = torch.get_default_dtype()
        self.factors = nn.Parameter(factors.to(kind))
        self.unconstrained_variance = nn.Parameter(_unconstrained(torch.ones(self.data_size)).to(kind))

    def set_covariance(self, covariance: Tensor) -> None:
        values, axes = torch.linalg.eigh(covariance)
        rest = values[: -self.rank].mean() if self.rank < self.data_size else values[0] / 2
        factors = axes[:, -self.rank :] * (values[-self.rank :] - rest).clamp(min=0).sqrt()
        variance = (covariance.diagonal() - factors.square().sum(-1)).clamp(min=1e-3 * float(values.mean()))
        self.factors.copy_(factors)
        self.unconstrained_variance.copy_(_unconstrained(variance))

    @property
    def variance(self) -> Tensor:
        """v, [D]."""
        return 1e-6 + softplus(self.unconstrained_variance)

    @property
    def covariance(self) -> Tensor:
        """Σ = F Fᵀ + diag(v), [D, D]."""
        return self.factors @ self.factors.mT + torch.diag_embed(self.variance)

    def gaussian(self, loc: Tensor) -> dist.LowRankMultivariateNormal:
        variance, checked = self.variance, _validation(loc)
        return dist.LowRankMultivariateNormal(loc, self.factors, variance, validate_args=checked)

    def complete(self, loc: Tensor, x: Tensor, observed: Tensor | None) -> Completed:
        return completed_by_factors(loc, self.factors, self.variance, x, observed)
