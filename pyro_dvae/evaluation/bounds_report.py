"""``bounds_report``: all bounds of a model and a guide on the same data, with a check of their order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds import (
    DenoisingELBO,
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceSemiImplicit_ELBO,
)
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.bounds_record import LOG_LIKELIHOOD, UNRELIABLE, BoundsEntry, BoundsReport
from pyro_dvae.evaluation.estimates import Estimate, estimate_in_chunks, evaluation_mode
from pyro_dvae.evaluation.importance.log_likelihood import log_likelihood
from pyro_dvae.evaluation.importance.result import TOO_MANY, LogLikelihood
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import Arguments, Data

# Inputs of the decoder or encoder, and densities of the latents, held at once.
_ROWS_AT_ONCE, _DENSITIES_AT_ONCE = 2000, 200_000


Planned = tuple[str, str, str, str, str, DenoisingELBO]


def planned_bounds(m: int, mixtures: list[int], particles: list[int], nesting: int | float) -> list[Planned]:
    """Return name, label, definition, kind, note and estimator of each bound, in their order."""
    options: dict[str, Any] = {"max_plate_nesting": nesting}
    most, lower = particles[-1], "lower bound"
    definition = "E_x̃ E_z log [p(x,z) / q(z|x̃)]"
    simple = TraceDenoising_ELBO(num_corruptions=m, num_particles=most, **options)
    planned: list[Planned] = [("dvae", "L_dvae", definition, "lower", lower, simple)]
    for j in mixtures:
        definition = f"E log [p(x,z) / (1/{j + 1} Σ_j=0..{j} q(z|x̃_j))], z ~ q(·|x̃_0)"
        bound = TraceSemiImplicit_ELBO(num_corruptions=m, num_particles=most, num_mixture=j, **options)
        planned.append((f"semi_implicit_{j}", f"L_J, J={j}", definition, "lower", lower, bound))
    j = mixtures[-1]
    definition = f"E log [p(x,z) / (1/{j} Σ_j=1..{j} q(z|x̃_j))], z ~ q(·|x̃_0)"
    bound = _UpperSandwich(num_corruptions=m, num_particles=most, num_mixture=j, **options)
    note = "above L_cvae; no bound of log p(x)"
    planned.append((f"upper_{j}", f"upper sandwich, J={j}", definition, "upper", note, bound))
    for k in particles:
        definition = f"1/M Σ_m E log 1/{k} Σ_k p(x,z_mk) / q(z_mk|x̃_m), M={m}"
        iwae = TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=k, **options)
        planned.append((f"diwae_{k}", f"L_diwae, M={m}, K={k}", definition, "lower", lower, iwae))
    k = most
    for combine, density in (("pooled", "q(z_mk|x̃_m)"), ("mixture", f"(1/{m} Σ_m' q(z_mk|x̃_m'))")):
        definition = f"E log 1/{m * k} Σ_m Σ_k p(x,z_mk) / {density}, M={m}, K={k}"
        iwae = TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=k, combine=combine, **options)
        planned.append((f"{combine}_{k}", f"{combine}, M={m}, K={k}", definition, "lower", lower, iwae))
    return planned


def orders(m: int, mixtures: list[int], particles: list[int]) -> tuple[tuple[str, str], ...]:
    """Return the pairs (lower, upper) of names whose bounds have this order in expectation."""
    semi, diwae = [f"semi_implicit_{j}" for j in mixtures], [f"diwae_{k}" for k in particles]
    pooled, mixture = f"pooled_{particles[-1]}", f"mixture_{particles[-1]}"
    # By Jensen's inequality over its draws, the mixture over M corruptions is above L_J for J + 1 ≤ M.
    below = [name for name, j in zip(semi, mixtures, strict=True) if j < m]
    chains = [
        ["dvae", *semi, f"upper_{mixtures[-1]}"],
        ["dvae", *diwae, pooled, LOG_LIKELIHOOD],
        ["dvae", *below, mixture, LOG_LIKELIHOOD],
        *[[name, LOG_LIKELIHOOD] for name in semi],
    ]
    return tuple(dict.fromkeys(pair for chain in chains for pair in itertools.combinations(chain, 2)))


def rows_at_once(bound: DenoisingELBO) -> int:
    """Return the size of a chunk that limits the network inputs and densities held at once."""
    draws = bound.num_corruptions * bound.num_particles
    if not isinstance(bound, TraceSemiImplicit_ELBO):
        return max(1, _ROWS_AT_ONCE // draws)
    inputs = bound.num_corruptions + bound.num_mixture
    return max(1, min(_ROWS_AT_ONCE // max(draws, inputs), _DENSITIES_AT_ONCE // (draws * bound.num_mixture)))


class _UpperSandwich(TraceSemiImplicit_ELBO):
    """Returns the upper sandwich of L_cvae as the bound of each row."""

    def per_datum(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        return self.upper_per_datum(model, guide, *args, **kwargs)


def bounds_report(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *args: Any,
    num_mixture: Iterable[int] = (1, 10, 100),
    num_particles: Iterable[int] = (1, 5, 50),
    num_corruptions: int = 5,
    num_samples: int = 1000,
    seed: int | None = None,
    max_plate_nesting: int | float = math.inf,
    progress: Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> BoundsReport:
    """Estimate every bound of a model and guide on the same data, without a gradient::

        L_dvae  ≤  L_J  ≤  L_J'  ≤  L_cvae  ≤  upper sandwich
        L_dvae  ≤  L_diwae (K)  ≤  L_diwae (K')  ≤  pooled
        L_cvae, pooled, mixture  ≤  log p(x)

    The bounds of the first line use M corruptions and the largest K, and the same draws as the last three
    bounds of the other lines.

    log p(x) is estimated by :func:`~pyro_dvae.log_likelihood` with the mixture over M corruptions as its
    proposal. For the bounds of the guide on clean input, give ``dv.clean_input(guide)``.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch, with or without a corruption.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_mixture: J of each semi-implicit bound, at least 1; the largest gives the upper sandwich.
    :param num_particles: K of each L_diwae; the largest is also that of the pooled and the mixture bound.
    :param num_corruptions: M, corruptions per observation.
    :param num_samples: importance samples per observation for log p(x), at least.
    :param seed: seed of the random streams; None draws it from the global stream.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :param progress: called with the numbers of finished rows and all rows, over all bounds.
    :raises InputError: if ``data`` is empty or not finite, or a count is below 1 or missing.
    """
    checks.pair(model, guide)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    checks.nesting("max_plate_nesting", max_plate_nesting)
    checks.optional(checks.program, "progress", progress)
    mixtures, particles = _counts("num_mixture", num_mixture), _counts("num_particles", num_particles)
    m = checks.count("num_corruptions", num_corruptions)
    num_samples = checks.count("num_samples", num_samples)
    nesting = (
        _plate_nesting(model, guide, given[:100]) if max_plate_nesting == math.inf else max_plate_nesting
    )

    planned = planned_bounds(m, mixtures, particles, nesting)
    total = len(given) * (len(planned) + 1)
    done = 0
    start = start_seed(seed)

    def tell(count: int) -> None:
        if progress is not None:
            with calling("progress"):
                progress(count, total)

    def evaluate(bound: DenoisingELBO, rows: int, stream: str) -> Tensor:
        nonlocal done
        parts = []
        for index, first in enumerate(range(0, len(given), rows)):
            chunk = given.part(slice(first, first + rows))
            own = derived_seed(start, "bounds_report", stream, index)
            estimate = estimate_in_chunks(model, guide, chunk, bound, rows, clean=False, seed=own)
            parts.append(estimate.per_datum)
            done += len(chunk)
            tell(done)
        return torch.cat(parts)

    entries = []
    with evaluation_mode(model, guide, given[: rows_at_once(planned[0][-1])]):
        for name, label, definition, kind, note, bound in planned:
            # Bounds with the same number of draws share them, which removes their noise from differences.
            alike = [each[-1] for each in planned if each[-1].num_particles == bound.num_particles]
            rows = min(rows_at_once(each) for each in alike)
            estimate = Estimate(evaluate(bound, rows, f"{m} x {bound.num_particles}"))
            entries.append(BoundsEntry(name, label, definition, kind, estimate, _with_lost(note, estimate)))
    sampled = log_likelihood(
        model,
        guide,
        given,
        num_samples=num_samples,
        proposal="mixture" if m > 1 else "corrupted",
        num_corruptions=m,
        seed=derived_seed(start, "bounds_report", LOG_LIKELIHOOD),
        max_plate_nesting=nesting,
        progress=False if progress is None else lambda count, _: tell(done + count),
    )
    entries.append(_likelihood(sampled))
    return BoundsReport(tuple(entries), orders(m, mixtures, particles))


def _likelihood(found: LogLikelihood) -> BoundsEntry:
    """Return the entry of log p(x), with a note on its bias."""
    error = found.standard_error
    estimate = Estimate(found.log_likelihood.double())
    unreliable = int((~(error <= UNRELIABLE)).sum())
    about = "more than" if unreliable or found.share_unreliable > TOO_MANY else "about"
    note = f"importance sampling; too low by {about} {float(error.square().nanmean()) / 2:.2g}"
    if unreliable:
        note += f"; sampling error above {UNRELIABLE} for {unreliable} of {len(error)} rows"
    if found.share_unreliable > TOO_MANY:
        note += f"; Pareto k above {found.threshold:.2f} for {100 * found.share_unreliable:.0f} %"
    definition = f"log 1/S Σ_s w_s, proposal: {found.proposal}, S={found.num_samples}"
    label = f"log p(x), {found.num_samples} samples"
    return BoundsEntry(
        LOG_LIKELIHOOD, label, definition, "estimate", estimate, _with_lost(note, estimate), error
    )


def _plate_nesting(model: Callable[..., Any], guide: Callable[..., Any], rows: Arguments) -> int | float:
    probe = TraceDenoising_ELBO(num_particles=2)
    with forked(), evaluation_mode(model, guide, rows):
        probe.per_datum(model, guide, *rows.rows, **rows.kwargs)
    return probe.plate_nesting


def _counts(argument: str, values: Any) -> list[int]:
    if isinstance(values, int):
        values = (values,)
    try:
        counts = sorted({checks.count(argument, value) for value in values})
    except TypeError:
        raise InputError(f"{argument}: expected whole numbers, got {type(values).__name__}") from None
    if not counts:
        raise InputError(f"{argument}: expected at least one number, got none")
    return counts


def _with_lost(note: str, estimate: Estimate) -> str:
    lost = int((~torch.isfinite(estimate.per_datum)).sum())
    return f"{note}; not finite for {lost} of {len(estimate.per_datum)} rows" if lost else note
