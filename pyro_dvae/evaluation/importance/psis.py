"""Pareto-smoothed importance sampling, from only the largest log weights of each row.

Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling", JMLR 25(72), with the
generalised Pareto fit of Zhang and Stephens (2009), Technometrics 51(3). What the papers leave open follows
``arviz.psislw`` of ArviZ 0.x, which takes log weights (ArviZ 1.x takes their negative, and rounds the length
of the tail down instead of up), with two exceptions: weights that are all equal have k = −inf, not +inf,
and a tail that spans nearly all of float64 has a large k, where ArviZ overflows and may return 5/(n + 10)
for a tail of n draws. All logarithms are in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError

_FEWEST = 5  # draws needed to fit a tail
_PRIOR_DRAWS, _PRIOR_K = 10.0, 0.5  # the prior of k is worth ten draws of k = 0.5
_GRID, _PRIOR_SPAN = 30, 3.0  # Zhang and Stephens: number of points of the grid, and its range
_LOWEST_CUTOFF = math.log(torch.finfo(torch.float64).tiny)  # relative to the largest log weight
_SMALLEST_QUARTILE = 1e-307  # some multiples of its reciprocal are still finite
_ELEMENTS_AT_ONCE = 2_000_000  # of the grid of a fit, [rows, points, draws]: 16 MB


@dataclass(frozen=True)
class ParetoTail:
    """A generalised Pareto distribution fitted to the largest weights of each observation.

    :param k: shape, [N]: large if few draws dominate (compare :func:`k_threshold`). +inf: fewer than five
        draws lie above the cutoff, so nothing was fitted. −inf: all weights are equal, so there is no tail
        (ArviZ: +inf).
    :param scale: scale of the excess over the cutoff, in units of the largest weight, [N]; NaN if not fitted.
    :param log_weights: the given log weights in their order, [N, T+1], with the tail replaced by the
        quantiles of the fit, which are cut off at the largest given weight (nats).
    """

    k: Tensor
    scale: Tensor
    log_weights: Tensor


def tail_length(num_samples: int) -> int:
    """Return T, the maximum number of S draws in the tail: min(S/5, 3·√S), rounded up."""
    samples = checks.count("num_samples", num_samples)
    return math.ceil(min(samples / 5, 3 * math.sqrt(samples)))


def k_threshold(num_samples: int) -> float:
    """Return the k above which an estimate from S draws is unreliable: min(1 − 1/log₁₀ S, 0.7).

    It is below 0.7 for S < 2,155, 0 at S = 10, negative below that, and −inf at S = 1, because so few draws
    are hardly ever reliable.
    """
    samples = checks.count("num_samples", num_samples)
    return min(1 - 1 / math.log10(samples), 0.7) if samples > 1 else -math.inf


def smooth_tail(largest: Tensor, *, resolution: float = 1e-12) -> ParetoTail:
    """Fit the tail of each row's weights and replace it by the quantiles of the fit.

    :param largest: the T+1 largest of the S log weights of each row, in any order, shape [N, T+1], with T
        from :func:`tail_length` (all weights if S ≤ T+1). The smallest is the cutoff: only larger weights are
        in the tail. −inf is a draw of weight zero.
    :param resolution: log weights that differ by no more than this count as equal (nats). It is their
        rounding error, which is larger in float32.
    :raises InputError: ``largest`` contains NaN or +inf, or has another shape.
    """
    _check("largest", largest, 2)
    checks.number("resolution", resolution, 1e-15)  # closer weights have equal exponentials
    given, order = largest.detach().double().sort(dim=1, descending=True, stable=True)
    top = given[:, :1]
    top = torch.where(torch.isfinite(top), top, 0.0)  # a row whose weights are all zero
    relative = given - top
    cutoff = relative[:, -1:].clamp(min=_LOWEST_CUTOFF)
    # The cutoff has a column too, though it is never in the tail.
    in_tail = relative > cutoff + resolution
    length = in_tail.sum(1)

    constant = (relative[:, -1] >= -resolution) & (relative.shape[1] > 1)
    k = torch.where(constant, -math.inf, math.inf).to(given)
    scale = torch.full_like(k, math.nan)
    smoothed = given.clone()
    fitted = (length >= _FEWEST).nonzero()[:, 0]
    for rows in fitted.split(_rows_at_once(given.shape[1])) if len(fitted) else ():
        base = cutoff[rows].exp()
        excess = torch.where(in_tail[rows], relative[rows].exp() - base, 0.0)
        k[rows], scale[rows] = _fit(excess, length[rows])
        weights = _quantiles(k[rows], scale[rows], length[rows], excess.shape[1]) + base
        smoothed[rows] = torch.where(in_tail[rows], weights.log().clamp(max=0.0) + top[rows], given[rows])
    return ParetoTail(k, scale, torch.empty_like(given).scatter(1, order, smoothed))


def smoothed_log_sum(
    largest: Tensor, log_rest: Tensor, *, resolution: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Return the log of the sum of all weights after smoothing, and k; both [N].

    There is no subtraction, hence no cancellation.

    :param largest: as for :func:`smooth_tail`, shape [N, T+1].
    :param log_rest: log of the sum of the other S − T − 1 weights of each row, −inf for none, shape [N].
    """
    _check("log_rest", log_rest, 1)
    tail = smooth_tail(largest, resolution=resolution)
    if len(log_rest) != len(largest):
        raise InputError(f"log_rest: expected {len(largest)} values, as in largest, got {len(log_rest)}")
    return torch.logaddexp(tail.log_weights.logsumexp(1), log_rest.detach().double()), tail.k


def _fit(excess: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return shape and scale, [R], of a generalised Pareto distribution, an empirical Bayes estimate.

    The likelihood of the excess w is a function of b = −k/σ alone: k(b) = mean log(1 − b·w) is the shape
    (with the sign of Vehtari et al.), and b is averaged over a grid under its profile likelihood.

    :param excess: weights minus the cutoff, descending, zero after the tail, shape [R, T+1].
    :param length: draws in the tail, [R].
    """
    count = length.to(excess)[:, None]
    # The first quartile in ascending order; zero if the weights at the cutoff differ by less than an ulp.
    quartile = excess.gather(1, length[:, None] - (count / 4 + 0.5).floor().long())
    points = _GRID + count.sqrt().floor()
    # As many columns as the longest tail needs, so that the result of a row does not depend on other rows.
    index = torch.arange(1, _points(excess.shape[1]) + 1, device=excess.device, dtype=excess.dtype)
    steps = (1 - (points / (index - 0.5)).sqrt()) / (_PRIOR_SPAN * quartile.clamp(min=_SMALLEST_QUARTILE))
    used = index <= points
    b = torch.where(used, 1 / excess[:, :1] + steps, 0.0)
    k, scale = _profile(b, excess, count)
    log_likelihood = torch.where(used, -count * (scale.log() + k + 1), -math.inf)
    b = (log_likelihood.softmax(1) * b).sum(1, keepdim=True)
    k, scale = _profile(b, excess, count)
    k = (count * k + _PRIOR_DRAWS * _PRIOR_K) / (count + _PRIOR_DRAWS)
    return k[:, 0], scale[:, 0]


def _profile(b: Tensor, excess: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely shape and scale for each b, both [R, J]."""
    k = (-b[:, :, None] * excess[:, None, :]).log1p().sum(2) / count
    mean = excess.sum(1, keepdim=True) / count
    return k, torch.where(b == 0, mean, -k / torch.where(b == 0, 1.0, b))


def _quantiles(k: Tensor, scale: Tensor, length: Tensor, columns: int) -> Tensor:
    """Return the excess at the middle of each of ``length`` equal shares, descending, [R, columns]."""
    k, scale = k[:, None], scale[:, None]
    place = torch.arange(columns, device=k.device, dtype=k.dtype) + 0.5
    log_above = (place / length[:, None]).log()
    exponential = k.abs() < torch.finfo(k.dtype).eps
    shape = torch.where(exponential, 1.0, k)
    return torch.where(exponential, -log_above, torch.expm1(-shape * log_above) / shape) * scale


def _points(columns: int) -> int:
    return _GRID + math.isqrt(columns)


def _rows_at_once(columns: int) -> int:
    return max(1, _ELEMENTS_AT_ONCE // (_points(columns) * columns))


def _check(argument: str, value: Tensor, dimensions: int) -> None:
    checks.floating(argument, value)
    if value.ndim != dimensions or (value.ndim == 2 and value.shape[1] == 0):
        expected = "[data, draws]" if dimensions == 2 else "[data]"
        raise InputError(f"{argument}: expected shape {expected}, got {tuple(value.shape)}")
    bad = value.isnan() | (value == math.inf)
    if bool(bad.any()):
        datum = int(bad.reshape(len(value), -1).any(1).nonzero()[0])
        raise InputError(f"{argument}: expected log weights below inf, got NaN or inf at row {datum}")
