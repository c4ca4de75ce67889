"""Gaussian vectors with gaps: missing cells given observed ones, for any pattern of gaps in each row."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Completed(NamedTuple):
    """p(x_missing | x_observed), in the shape of the whole row.

    :param mean: the row with conditional means in missing cells, [..., D].
    :param covariance: covariance of the missing cells, zero for observed ones, [..., D, D].
    :param log_prob: log p(x_observed), [...] (nats).
    """

    mean: Tensor
    covariance: Tensor
    log_prob: Tensor


def completed(loc: Tensor, covariance: Tensor, x: Tensor, observed: Tensor | None = None) -> Completed:
    """Return p(x_m | x_o) and log p(x_o) of x ~ N(μ, Σ) in closed form::

        mean = μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o),    covariance = Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om

    All rows are solved together: each Σ_oo is padded to [D, D] with ones on the diagonal of missing cells.

    :param loc: μ, [..., D].
    :param covariance: Σ, [D, D] or [..., D, D].
    :param x: rows with NaN in missing cells, [..., D].
    :param observed: which cells are observed, boolean; by default those that are not NaN.
    """
    here, residual = _residual(loc, x, observed)
    known = covariance * here.unsqueeze(-1) * here.unsqueeze(-2)
    tril = torch.linalg.cholesky(known + torch.diag_embed(1 - here))
    across = covariance * here.unsqueeze(-2) * (1 - here).unsqueeze(-1)  # Σ_mo, zero elsewhere
    white = torch.linalg.solve_triangular(tril, residual.unsqueeze(-1), upper=False)
    gain = torch.linalg.solve_triangular(tril, across.mT, upper=False)
    mean = torch.where(here > 0, x, loc + (gain.mT @ white).squeeze(-1))
    gaps = covariance * (1 - here).unsqueeze(-1) * (1 - here).unsqueeze(-2)
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Completed(mean, gaps - gain.mT @ gain, _log_density(white.square().sum((-2, -1)), log_det, here))


def completed_by_factors(
    loc: Tensor, factors: Tensor, variance: Tensor, x: Tensor, observed: Tensor | None = None
) -> Completed:
    """Return :class:`Completed` for Σ = F Fᵀ + diag(v), with r factors: x = μ + F e + noise, e ~ N(0, I)::

        e | x_o ~ N(P⁻¹ F_oᵀ v_o⁻¹ (x_o − μ_o), P⁻¹),    P = I + F_oᵀ v_o⁻¹ F_o

    :param loc: μ, [..., D].
    :param factors: F, [D, r].
    :param variance: v, [D].
    :param x: rows with NaN in missing cells, [..., D].
    :param observed: which cells are observed, boolean; by default those that are not NaN.
    """
    here, residual = _residual(loc, x, observed)
    weight = here / variance
    identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    tril = torch.linalg.cholesky(identity + factors.mT @ (weight.unsqueeze(-1) * factors))
    white = torch.linalg.solve_triangular(tril, ((weight * residual) @ factors).unsqueeze(-1), upper=False)
    missing = (1 - here).unsqueeze(-1) * factors  # F_m, zero elsewhere
    gain = torch.linalg.solve_triangular(tril, missing.mT, upper=False)
    mean = torch.where(here > 0, x, loc + (gain.mT @ white).squeeze(-1))
    covariance = gain.mT @ gain + torch.diag_embed((1 - here) * variance)
    distance = (weight * residual.square()).sum(-1) - white.square().sum((-2, -1))
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + (here * variance.log()).sum(-1)
    return Completed(mean, covariance, _log_density(distance, log_det, here))


def _residual(loc: Tensor, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mask of observed cells as zeros and ones, and x − μ with 0 in missing cells."""
    seen = ~torch.isnan(x) if observed is None else observed
    seen = seen.expand(torch.broadcast_shapes(loc.shape, x.shape))
    return seen.to(loc.dtype), torch.where(seen, torch.nan_to_num(x) - loc, 0.0)


def _log_density(distance: Tensor, log_det: Tensor, here: Tensor) -> Tensor:
    return -0.5 * (distance + log_det + math.log(2 * math.pi) * here.sum(-1))
