"""A bound on held-out data, per observation with its standard error; its values as JSON and text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds import DenoisingELBO
from pyro_dvae.calling import calling
from pyro_dvae.distributed.ranks import Ranks, together
from pyro_dvae.errors import InputError, shown
from pyro_dvae.evaluation.arguments import rows_of, why_shared
from pyro_dvae.programs.data_plate import by_rows
from pyro_dvae.programs.parameters import discover, float_type
from pyro_dvae.programs.support import InSupport
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import clean_input


def finite(value: Any) -> Any:
    """Return a number, or lists of them, with None for NaN and infinity."""
    if isinstance(value, list):
        return [finite(element) for element in value]
    return value if math.isfinite(value) else None


def estimate_values(estimate: Estimate, per_datum: bool) -> dict[str, Any]:
    """Return mean and standard error, and on request the value of each observation."""
    found = {"mean": finite(estimate.mean), "standard_error": finite(estimate.standard_error)}
    if per_datum:
        found["per_datum"] = finite(estimate.per_datum.tolist())
    return found


def error_of_mean(errors: Tensor) -> float:
    """Return the standard error of the mean of independent values [N] with these standard errors."""
    return float(errors.square().sum().sqrt()) / len(errors)


def plus_minus(value: float, error: float | None, digits: int = 3) -> str:
    """Return a value ± its standard error as text."""
    shown = "n/a" if error is None or not math.isfinite(error) else f"{error:.{digits}f}"
    return f"{value:.{digits}f} ± {shown}"


@contextmanager
def evaluation_mode(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    rows: Arguments,
    observed: Data | None = None,
    total: int | None = None,
) -> Iterator[None]:
    """Put the modules of a model and a guide in evaluation mode; restore their modes afterwards.

    Dropout would change results at random, and batch normalisation would make them depend on other rows and
    on earlier calls. One run on ``rows``, without side effects, finds the modules. Exceptions of the programs
    become one-line errors.

    :param observed: all rows, if the likelihood is to be evaluated at them.
    :param total: the number of all rows, if ``observed`` is not given.
    :raises InputError: values of ``observed`` lie outside the support of the likelihood.
    """
    support = InSupport("data", rows.x, estimated=True)

    def run() -> None:
        with poutine.block(), nullcontext() if observed is None else support:
            trace = rows.call(poutine.trace(guide).get_trace) if guide is not None else None
            rows.call(model if trace is None else poutine.replay(model, trace=trace))

    with rows_of(len(rows.x), (total or len(rows.x)) if observed is None else len(observed)):
        trained = discover(model, guide, run, required=False, data={"data": rows.x})
    if observed is not None:
        support.require(observed)
    with trained.evaluating(), calling("model, guide, data"):
        yield


# Rows of decoder output held at once: few enough for the cache of a CPU.
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class Estimate:
    """A bound for each observation, with its mean and standard error; all in nats.

    :param per_datum: one Monte Carlo estimate per observation, shape [N], float64.
    """

    per_datum: Tensor

    def __str__(self) -> str:
        return f"{plus_minus(self.mean, self.standard_error)} nats, mean of {len(self.per_datum):,} rows"

    @property
    def mean(self) -> float:
        """The mean over the data."""
        return float(self.per_datum.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the data; NaN for a single observation.

        It covers the variation between observations and the Monte Carlo error of each.
        """
        count = len(self.per_datum)
        return float(self.per_datum.std()) / math.sqrt(count) if count > 1 else math.nan


def evaluate_bound(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *args: Any,
    loss: DenoisingELBO,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> Estimate:
    """Estimate the bound of ``loss`` for each row of ``data``, without a gradient, in evaluation mode.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param loss: for example ``TraceDenoising_ELBO()``, or ``TraceDenoisingIWAE_ELBO(num_particles=200)``.
    :param clean: give the guide clean input, as in Im et al. (2017); otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows of ``data`` at a time; by default about 2,000 divided by the draws per row.
    :param progress: called with the numbers of finished rows and all rows.
    :returns: the bound of each observation, with mean and standard error (nats).
    :raises InputError: if ``data`` is empty, or no plate has the size of a batch.
    """
    checks.pair(model, guide)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    checks.optional(checks.program, "progress", progress)
    checks.flag("clean", clean)
    if seed is not None:
        seed = checks.count("seed", seed, minimum=0)
    if not hasattr(loss, "per_datum"):
        raise InputError(f"loss: expected a bound of this package, got {shown(loss)}")
    draws = loss.num_corruptions * loss.num_particles
    size = max(1, _ROWS_AT_ONCE // draws) if batch_size is None else checks.count("batch_size", batch_size)
    with evaluation_mode(model, guide, given[:size], given):
        return estimate_in_chunks(model, guide, given, loss, size, clean=clean, seed=seed, progress=progress)


def estimate_in_chunks(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    bound: DenoisingELBO,
    size: int,
    *,
    clean: bool,
    seed: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Estimate the bound for each row, ``size`` rows at a time, in the current mode of the modules."""
    parts: list[Tensor] = []
    done = 0
    inside: list[int] | None = None  # dimensions of plates within a row, found once
    with torch.no_grad(), forked(seed) if seed is not None else nullcontext():
        for rows in data.split(size):
            with clean_input() if clean else nullcontext(), rows_of(len(rows), len(data)):
                values = bound.per_datum(model, guide, *rows.rows, **rows.kwargs)
            if values.numel() != len(rows) and inside is None:
                with forked():
                    draws = bound.draws(model, guide, rows.rows, dict(rows.kwargs))
                of_rows = by_rows(draws, len(rows)).datum_frames()
                inside = [frame.dim for frame in draws.datum_frames() if frame not in of_rows]
            if inside:
                values = values.sum(inside, keepdim=True)
            if values.numel() != len(rows):
                raise InputError(
                    f"model: expected one plate with the {len(rows)} rows of a batch, got bounds of shape "
                    f"{tuple(values.shape)}{why_shared(draws)}"
                )
            parts.append(values.reshape(-1).double().cpu())
            done += len(rows)
            if progress is not None:
                with calling("progress"):
                    progress(done, len(data))
    return Estimate(torch.cat(parts))


def evaluate_bound_over_ranks(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *args: Any,
    loss: DenoisingELBO,
    seed: int | None = None,
    ranks: Ranks | None = None,
    **kwargs: Any,
) -> Estimate:
    """Return the result of :func:`evaluate_bound` for all rows on every rank.

    Every rank calls this with the same arguments and evaluates its share of the rows. Rank 0 uses the random
    stream of a single process and the other ranks their own, so the values agree with a single process within
    their Monte Carlo error.

    :param seed: seed of the random streams; None draws it from rank 0's global stream.
    :param ranks: the ranks of this run, with the caller's remedy for a lost process.
    """
    ranks = Ranks.present() if ranks is None else ranks
    if not ranks.several:
        return evaluate_bound(model, guide, data, *args, loss=loss, seed=seed, **kwargs)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    drawn = start_seed(seed)
    start = ranks.of_first(drawn)
    own = given.part(ranks.share(len(given)))

    def work() -> Tensor:
        if not len(own):
            return torch.empty(0)
        stream = start if ranks.first else derived_seed(start, "rank", ranks.rank)
        return evaluate_bound(model, guide, own, loss=loss, seed=stream).per_datum

    return Estimate(torch.cat([part for part in together(ranks, work) if len(part)]))
