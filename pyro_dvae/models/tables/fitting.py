"""``fit_table``: a generative model of a table of numbers, chosen on held-out cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.conditioning import table_rows
from pyro_dvae.distributions.gaussian_mixture import GaussianMixture
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.progress import progress_of
from pyro_dvae.models.tables.candidates import RIDGES, fitted_mixtures, name_of, sizes
from pyro_dvae.models.tables.table import FittedTable
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import columns_of

_HELD_OUT, _ENOUGH_CELLS, _FOLDS, _FEWEST_CELLS = 0.1, 1500, 4, 30
_MORE = 4  # factor of the number of rows for the final fit on all cells
_KEPT = 2000  # training rows kept for anomaly scores


def fit_table(
    data: Any,
    *,
    seed: int | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> FittedTable:
    """Fit a generative model to a table of numbers, with or without gaps, without tuning.

    Candidates are fitted without a tenth of the observed cells, and predict these. They are combined with the
    weights of least squared error (stacking); those with a positive weight are then fitted to all cells.

    The candidates are mixtures of 1, 3, 8, ... Gaussians with full covariances, fitted by
    expectation-maximisation to the observed cells with Gaussian noise of several variances. One Gaussian is
    hard to beat with few rows; several are better with enough rows to see a curved distribution.

    :param data: rows [N, D] with NaN (or masked, or NA) in gaps: a tensor, an array or a DataFrame of
        numbers. Columns are standardised. Cells must be missing at random given the observed ones.
    :param seed: seed of held-out cells and initial values; None draws it from the global stream.
    :param progress: whether to show progress, or a function of the numbers of finished fits and all fits.
    :raises InputError: a column has no observed cell.
    """
    rows = table_rows(data).to("cpu", torch.float64)
    checks.progress(progress)
    empty = rows.isnan().all(0).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(f"data: expected observed cells in each column, got none in columns {empty}")
    start = start_seed(seed)
    loc = rows.nanmean(0)
    largest = (rows - loc).abs().nan_to_num(0.0).amax(0).clamp_min(torch.finfo(rows.dtype).tiny)
    scale = largest * ((rows - loc) / largest).square().nanmean(0).sqrt()  # squares might be out of range
    # A constant column has scale 1; the rounding of its mean is no spread.
    varies = rows.nan_to_num(-math.inf).amax(0) > rows.nan_to_num(math.inf).amin(0)
    scale = torch.where(varies & (scale > 0), scale, 1.0)
    with torch.no_grad(), progress_of("fitting a table", progress) as shown:
        found = _chosen((rows - loc) / scale, loc, scale, start, shown)
    return replace(found, columns=columns_of(data))


def _chosen(
    x: Tensor, loc: Tensor, scale: Tensor, seed: int, shown: Callable[[int, int], None]
) -> FittedTable:
    """Fit all candidates without some cells, weight them, and refit those with a weight to all cells."""
    observed = int((~x.isnan()).sum())
    paths = sizes(x)
    names = [name_of(k, ridge) for k, _ in paths for ridge in RIDGES]
    folds = min(_FOLDS, math.ceil(_ENOUGH_CELLS / max(1.0, _HELD_OUT * observed)))
    total, done = (folds + 1) * len(names), 0
    predictions, truth = [], []
    fits: dict[str, GaussianMixture] = {}
    for fold in range(folds):
        with forked(derived_seed(seed, "held out", fold)):
            held = (torch.rand(x.shape) < _HELD_OUT) & ~x.isnan()
            held &= (torch.rand(len(x), 1) * int(held.sum())) < _ENOUGH_CELLS  # in as many rows as are needed
            fewer = x.masked_fill(held, math.nan)
            affected = held.any(1)
            found = []
            for name, mixture in fitted_mixtures(fewer, paths):
                fits[name] = mixture
                some = fewer[affected]
                found.append(mixture.expected(some.nan_to_num(), ~some.isnan())[held[affected]])
                shown(done := done + 1, total)
        predictions.append(torch.stack(found, -1))
        truth.append(x[held])
    together, cells = torch.cat(predictions), torch.cat(truth)
    if len(cells) >= _FEWEST_CELLS:
        weights = stacked(together, cells)
    else:
        weights = torch.eye(len(names), dtype=x.dtype)[0]  # one Gaussian with the most noise
    errors = (together - cells.unsqueeze(-1)).square().mean(0)
    stack_error = (together @ weights - cells).square().mean()
    wanted = {name for name, weight in zip(names, weights, strict=True) if weight > 0}
    more = [(components, min(_MORE * count, len(x))) for components, count in paths]
    members = {}
    with forked(derived_seed(seed, "all cells")):
        for name, mixture in fitted_mixtures(x, more, fits, wanted):
            members[name] = mixture
            shown(done := done + 1, total)
        kept = x[torch.randperm(len(x))[:_KEPT]]
    shown(total, total)
    held_out = {name: float(error) for name, error in zip(names, errors, strict=True)}
    held_out["together"] = float(stack_error)
    return FittedTable(members, weights[weights > 0], kept, loc, scale, held_out, seed)


def stacked(predictions: Tensor, truth: Tensor, steps: int = 2000) -> Tensor:
    """Return weights w ≥ 0 with Σ w = 1 of least ‖P w − y‖² (stacking, Breiman 1996), [M].

    Projected gradient steps of size 1 / largest eigenvalue, with Nesterov's momentum. Weights below a
    hundredth are set to zero.

    :param predictions: P, [cells, M].
    :param truth: y, [cells].
    """
    gram, target = predictions.mT @ predictions, predictions.mT @ truth
    rate = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12)
    weight = torch.full_like(target, 1 / len(target))
    ahead = weight
    for step in range(steps):
        moved = onto_simplex(ahead - rate * (gram @ ahead - target))
        ahead = moved + step / (step + 3) * (moved - weight)
        weight = moved
    weight = torch.where(weight < 0.01, 0.0, weight)
    return weight / weight.sum()


def onto_simplex(value: Tensor) -> Tensor:
    """Return the nearest point with non-negative entries that sum to 1 (Duchi et al. 2008)."""
    ordered = value.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(value) + 1, dtype=value.dtype, device=value.device)
    last = int((ordered > excess).sum()) - 1
    return (value - excess[last]).clamp(min=0)
