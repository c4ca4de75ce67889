"""Applications of conditioning: filling gaps, predicting columns, conditional samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.conditioning.condition import condition
from pyro_dvae.conditioning.programs import Program, table_rows, together
from pyro_dvae.conditioning.result import Completions
from pyro_dvae.errors import InputError, shown
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import columns_of

FILLS = ("mean", "median", "mode", "draw")


def impute(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    how: str = "mean",
    num_imputations: int = 1,
    **options: Any,
) -> Tensor:
    """Return the rows with their gaps filled, [N, ...]; [S, N, ...] for S > 1 imputations.

    :param data: rows with NaN in missing cells, as for :func:`~pyro_dvae.condition`.
    :param how: ``"mean"`` or ``"median"`` (least squared or absolute error; categories get their mode),
        ``"mode"`` (if all missing cells are discrete) or ``"draw"`` (multiple imputation: draws of whole
        rows, which keep the spread and the dependence). A warning counts rows that are not reliable.
    :param num_imputations: S, for ``"draw"``.
    :param options: of :func:`~pyro_dvae.condition`.
    """
    return imputed(partial(condition, model, guide, data, *args, **options), how, num_imputations)


def imputed(conditioned: Callable[..., Completions], how: str = "mean", num_imputations: int = 1) -> Tensor:
    """Return rows with their gaps filled from ``conditioned(num_draws=...)``, as :func:`impute` does."""
    checks.known("how", how, FILLS)
    num_imputations = checks.count("num_imputations", num_imputations)
    if how != "draw" and num_imputations > 1:
        raise InputError(
            f"num_imputations: expected 1 for how={how!r}, got {num_imputations}; use how='draw' for several"
        )
    found = conditioned(num_draws=num_imputations) if how == "draw" else conditioned()
    found.warn_of_unreliable()
    if how != "draw":
        return found.filled(how)
    return found.draws if num_imputations > 1 else found.draws[0]


def sample_given(
    model: Program, guide: Program, data: Any, *args: Any, num_draws: int = 100, **options: Any
) -> Tensor:
    """Return draws of each row given its observed cells, [num_draws, N, ...], without rejection.

    A warning counts rows that are not reliable.

    :param data: rows with NaN in the cells to draw.
    :param options: of :func:`~pyro_dvae.condition`.
    """
    found = condition(model, guide, data, *args, num_draws=num_draws, **options)
    found.warn_of_unreliable()
    return found.draws


@dataclass(frozen=True)
class Prediction:
    """Columns of N rows, predicted from the others.

    :param columns: their positions, in the requested order.
    :param mean: [N, columns].
    :param low: lower end of the central interval, [N, columns].
    :param high: upper end, [N, columns].
    :param level: nominal coverage of the interval.
    :param reliable: whether the importance weights of a row can be trusted, [N].
    """

    columns: tuple[int, ...]
    mean: Tensor
    low: Tensor
    high: Tensor
    level: float
    reliable: Tensor


def predict(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    columns: Sequence[int | str],
    level: float = 0.9,
    **options: Any,
) -> Prediction:
    """Predict some columns of each row from the others; the values in these columns are ignored.

    :param data: rows [N, D]; other cells may be missing, too.
    :param columns: positions of the columns, from 0, or names if ``data`` is a table; the result has them in
        this order.
    :param level: coverage of the intervals.
    :param options: of :func:`~pyro_dvae.condition`.
    :raises InputError: a column does not exist.
    """
    whole, others = together(data, args, float_type(model, guide))
    names = columns_of(data)
    return predicted(
        lambda rows: condition(model, guide, rows, *others, **options), whole, columns, level, names
    )


def predicted(
    conditioned: Callable[[Tensor], Completions],
    data: Any,
    columns: Sequence[int | str],
    level: float = 0.9,
    names: Sequence[str] = (),
) -> Prediction:
    """Predict columns by ``conditioned`` on rows without them, as :func:`predict` does."""
    rows = table_rows(data)
    chosen = _columns(columns, rows.shape[1], names)
    rows[:, chosen] = math.nan
    found = conditioned(rows)
    low, high = found.interval(level)
    mean, low, high = (each[:, chosen] for each in (found.mean, low, high))
    return Prediction(tuple(chosen), mean, low, high, level, found.reliable)


def _columns(columns: Any, count: int, names: Sequence[str]) -> list[int]:
    """Return the positions of columns in the order given, or refuse what does not exist or comes twice."""
    if isinstance(columns, str | bytes) or not isinstance(columns, Iterable):
        raise InputError(f"columns: expected a sequence of positions or names, got {shown(columns)}")
    found = []
    for column in columns:
        if isinstance(column, str):
            if names.count(checks.known("columns", column, names)) > 1:
                raise InputError(f"columns: {column!r} names several columns; give positions")
            found.append(names.index(column))
        else:
            found.append(checks.count("columns", column, minimum=0, maximum=count - 1))
    if not found or len(set(found)) < len(found):
        raise InputError(f"columns: expected at least one column, and none twice, got {shown(columns)}")
    return found
