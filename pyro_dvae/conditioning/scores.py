"""Anomaly scores of rows and of their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.conditioning.condition import condition
from pyro_dvae.conditioning.gaps import measured
from pyro_dvae.conditioning.programs import Completing, GapModel, Program, cells, table_rows, together
from pyro_dvae.conditioning.refusals import refuse_readers
from pyro_dvae.conditioning.result import warn_of_scores
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.evaluation.measures.passes import rows_within
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.rows import Arguments, Data, gaps_allowed, source_of

METHODS = ("likelihood", "regret", "reconstruction")
_GAP_OPTIONS = ("compile", "max_plate_nesting")
_ROWS, _RECONSTRUCTIONS = 500, 20


def anomaly_score(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    method: str = "likelihood",
    by: str = "row",
    refine: bool | int | Refinement = True,
    num_samples: int = 1000,
    seed: int | None = None,
    memory: int = 2**29,
    progress: bool | Callable[[int, int], None] | None = None,
    **options: Any,
) -> Tensor:
    """Score how unusual each row is, [N], or each of its cells, [N, D]; higher is more unusual.

    - ``"likelihood"``: −log p(x_observed) of the row, or −log p(x_j | rest) of each cell (nats). A warning
      counts rows whose importance weights are not reliable.
    - ``"regret"`` (Xiao, Yan and Amit 2020): the bound with the row's own posterior minus the encoder's. The
      encoder fits rows unlike the training data badly. By row only.
    - ``"reconstruction"``: squared error of the cell, or its sum over the row, of reconstructions from
      corrupted input; averaged over at most 20 draws.

    :param data: rows [N, D]; gaps are allowed for ``"likelihood"``. A missing cell scores NaN.
    :param by: ``"row"`` or ``"column"``.
    :param refine: refinement of the proposals, as for :func:`~pyro_dvae.condition`.
    :param num_samples: draws of the latents of each row.
    :param memory: approximate number of bytes to use in addition to data and results. Data on disk are read
        in portions of about this size (by row only).
    :param progress: whether to show progress, or a function of the numbers of finished rows and all rows.
    :param options: of :func:`~pyro_dvae.condition` (likelihood) or :func:`~pyro_dvae.inference_gaps`
        (regret), and further arguments of model and guide.
    :raises InputError: an argument is invalid, or the method has no scores by column.
    """
    checks.known("method", method, METHODS)
    checks.known("by", by, ("row", "column"))
    checks.progress(progress)
    settings = Refinement.of(refine) or Refinement(families=(), annealing_steps=0)
    if method == "regret":
        if by == "column":
            raise InputError("by: regret exists only for whole rows; use by='row'")
        bounds, _ = measured(
            model,
            guide,
            (data, *args),
            {name: value for name, value in options.items() if name not in _GAP_OPTIONS},
            settings=settings,
            families=("diagonal",),
            num_samples=num_samples,
            seed=seed,
            memory=memory,
            progress=progress,
            **{name: value for name, value in options.items() if name in _GAP_OPTIONS},
        )
        return bounds["diagonal"] - bounds["encoder"]
    if method == "reconstruction":
        squares = _squared_errors(model, guide, data, args, num_samples, seed, memory, options)
        return squares if by == "column" else squares.reshape(len(squares), -1).nansum(1)

    floats = float_type(model, guide)

    def log_evidence(rows: Tensor, further: tuple[Any, ...], start: int | None) -> Tensor:
        fixed: dict[str, Any] = {
            "num_draws": 1,
            "num_samples": num_samples,
            "refine": settings,
            "seed": start,
        }
        fixed |= {"memory": memory, "progress": progress}
        found = condition(model, guide, rows, *further, **(options | fixed))
        reliable.append(found.reliable.cpu())
        return found.log_likelihood

    reliable: list[Tensor] = []
    if by == "column":
        whole, others = together(data, args, floats)
        found = given_the_rest(lambda rows: log_evidence(rows, others, seed), whole)
        warn_of_scores(torch.stack(reliable).all(0))
        return found
    scores = []
    for number, (rows, further) in enumerate(_portions(data, args, memory, floats)):
        start = derived_seed(seed, "portion", number) if number and seed is not None else seed
        scores.append(-log_evidence(rows, further, start))
    warn_of_scores(torch.cat(reliable))
    return torch.cat(scores)


def _portions(
    data: Any, args: tuple[Any, ...], memory: int, floats: torch.dtype
) -> Iterator[tuple[Tensor, tuple[Any, ...]]]:
    """Yield rows with their further arguments: a tensor at once, other sources in portions."""
    if isinstance(data, Tensor):
        yield data, args
        return
    with gaps_allowed():
        source = source_of("data", data, floats)
        row = sum(part.nbytes for part in source.take(slice(0, 1)))
    others = Data.opened("args", args, None, floats) if args else None
    if others is not None and len(others) != len(source):
        raise InputError(f"args: expected {len(source)} rows, as in data, got {len(others)}")
    size = max(_ROWS, memory // (4 * row))
    for first in range(0, len(source), size):
        portion = slice(first, first + size)
        with gaps_allowed():
            x, *further = source.take(portion)
        yield x, (*further, *(() if others is None else others.take(portion)))


def given_the_rest(log_evidence: Callable[[Tensor], Tensor], data: Any) -> Tensor:
    """Return −log p(x_j | rest) of each observed cell, [N, D], from the log-evidence of rows with gaps."""
    rows = table_rows(data)
    whole = log_evidence(rows)
    scores = torch.full(rows.shape, math.nan, dtype=torch.float64)
    for column in range(rows.shape[1]):
        rest = rows.clone()
        rest[:, column] = math.nan
        here = (~rows[:, column].isnan()).cpu()
        scores[here, column] = (log_evidence(rest) - whole)[here]
    return scores


def _squared_errors(
    model: Program,
    guide: Program,
    data: Any,
    args: tuple[Any, ...],
    num: int,
    seed: int | None,
    memory: int,
    kwargs: dict[str, Any],
) -> Tensor:
    """Return the squared error of each cell's reconstruction from a corrupted row, averaged over draws."""
    checks.pair(model, guide)
    checks.count("num_samples", num)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    found = []
    size = rows_within(memory, given, _ROWS)
    with torch.no_grad(), evaluation_mode(model, guide, given[:2]), pyro.validation_enabled(False):
        for first in range(0, len(given), size):
            rows = given[first : first + size]
            hidden = rows.of(torch.full_like(rows.x, math.nan))
            places = cells(model, rows)
            every = torch.ones_like(rows.x, dtype=torch.bool)
            refuse_readers(GapModel(model), Arguments((rows.x, every, *rows.rows[1:]), rows.kwargs), every)
            total = torch.zeros(rows.x.shape, dtype=torch.float64, device=rows.x.device)
            with forked(None if seed is None else derived_seed(seed, "reconstruction", first)):
                for _ in range(min(num, _RECONSTRUCTIONS)):
                    with poutine.block(), poutine.trace() as latents:
                        rows.call(guide)
                    completing = Completing()
                    with poutine.block(), poutine.replay(trace=latents.trace), completing:
                        hidden.call(model)
                    mean = torch.full_like(rows.x, math.nan, dtype=torch.float64).flatten()
                    for name, position in places.items():
                        found_here = completing.means[name].expand_as(position).double()
                        mean[position[position >= 0]] = found_here[position >= 0]
                    total += (mean.reshape(rows.x.shape) - rows.x.double()).square()
            found.append(total.cpu() / min(num, _RECONSTRUCTIONS))
    return torch.cat(found)
