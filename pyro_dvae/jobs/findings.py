"""The measures of an evaluation, their records and their pictures."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_dvae import plots
from pyro_dvae.datasets.array_scale import ArrayScale
from pyro_dvae.evaluation import (
    ActiveUnits,
    BoundParts,
    Estimate,
    LinearProbe,
    LogLikelihood,
    ReconstructionError,
    SampleQuality,
    active_units,
    bits_per_dim,
    bound_parts,
    linear_probe,
    log_likelihood,
    reconstruction_error,
    sample_quality,
)
from pyro_dvae.evaluation.annealing import (
    AnnealedLikelihood,
    BidirectionalReport,
    annealed_log_likelihood,
    bidirectional,
)
from pyro_dvae.evaluation.estimates import error_of_mean, finite
from pyro_dvae.evaluation.progress import Tell, progress_of
from pyro_dvae.jobs.data import grid_of
from pyro_dvae.jobs.evaluated import EvaluatedRun
from pyro_dvae.jobs.options import EvaluationOptions
from pyro_dvae.using.decoding import sample

MEGABYTE = 2**20
_SAMPLES = 20_000  # maximum number of samples to compare with test data


@dataclass(frozen=True)
class Findings:
    """All results; parts that were left out, or do not apply, are None.

    :param seconds: time of each part.
    """

    parts: BoundParts
    active: ActiveUnits | None
    reconstruction: ReconstructionError | None
    probe: LinearProbe | None
    samples: SampleQuality | None
    likelihood: LogLikelihood
    annealed: AnnealedLikelihood | None
    simulated: BidirectionalReport | None
    seconds: dict[str, float]


def measure(
    run: EvaluatedRun, options: EvaluationOptions, likelihood_of: Callable[[], LogLikelihood], quiet: bool
) -> Findings:
    """Compute all measures that the options select; short parts come first.

    :param likelihood_of: computes :func:`likelihood` of the run, here or elsewhere.
    """
    clock = _Clock(quiet)
    data = f"{len(run.x):,} test data"
    pair, x, seed = (run.dvae.model, run.dvae.guide), run.x, options.seed
    with pyro.settings.context(module_local_params=True):
        with clock("bound_parts", f"parts of the bound, {data}"):
            parts = bound_parts(*pair, x, max_plate_nesting=1, seed=seed)
        with clock("active_units", f"active units, {data}"):
            active = active_units(*pair, x, seed=seed) if len(x) > 1 else None
        reconstruction, columns = None, run.data.dataset.columns
        if columns is None or not columns.has_texts:  # a category has no mean
            with clock("reconstruction_error", f"reconstruction error, {data}"):
                reconstruction = reconstruction_error(*pair, x, seed=seed)
        probe, labels = None, run.labels()
        if labels is not None:
            with clock("linear_probe", f"linear probe of the codes, {data}"):
                probe = linear_probe(*pair, run.train_x(), labels[0], x, labels[1], seed=seed)
        samples = None
        if columns is not None and len(x) > 1:
            with clock("sample_quality", f"samples beside {data}"):
                samples = _samples(run, seed)
        with clock("log_likelihood", f"importance sampling, {data}"):
            found = likelihood_of()
        annealed, simulated = None, None
        if options.annealed:
            with clock(
                "annealed", f"annealed importance sampling, {min(options.annealed, len(x))} test data"
            ):
                annealed = _annealed(run, options, quiet)
        if options.simulated:
            with clock("bidirectional", f"bidirectional Monte Carlo, {options.simulated} simulated data"):
                simulated = _simulated(run, options, quiet)
    return Findings(parts, active, reconstruction, probe, samples, found, annealed, simulated, clock.seconds)


def _samples(run: EvaluatedRun, seed: int) -> SampleQuality:
    """Compare samples with the test data, as many as training rows; counts have the totals of rows."""
    columns, train = run.data.dataset.columns, run.train_x()
    assert columns is not None
    drawn = sample(run.dvae.model, train, num_samples=min(len(train), _SAMPLES), seed=seed)
    categories = [n for n, each in enumerate(columns.columns) if each.levels or each.kind == "binary"]
    return sample_quality(drawn, train, run.x, categories=categories, seed=seed)


def bits_per_dimension(run: EvaluatedRun, likelihood: LogLikelihood) -> dict[str, Any] | None:
    """Return −log₂ p(x) / D with its standard error over the data; None if there is no p(x).

    A density is converted to one of the values in the units of the data; if these are in [0, 1], on a grid of
    steps 1/n, to one of the whole numbers behind them. This adds log₂ of their factor, and log₂ n, bits.
    """
    units = run.data.dataset.units
    if run.observation == "none" or run.data.dataset.image_shape is None:
        return None
    assert isinstance(units, ArrayScale)
    steps, factor = 1, 1.0
    if run.observation == "density":
        original = units.original(run.data.visit(run.data.test))
        steps, factor = grid_of(torch.from_numpy(original)) or 1, units.factor
    bits = bits_per_dim(-likelihood.log_likelihood, run.x.shape[1], scale=factor * steps)
    estimate = Estimate(bits)
    return {
        "mean": finite(estimate.mean),
        "standard_error": finite(estimate.standard_error),
        "of": run.observation,
        "steps": steps,
        "added": math.log2(factor * steps),
    }


def same_data(likelihood: LogLikelihood, annealed: AnnealedLikelihood) -> dict[str, Any]:
    """Return the results of annealing and importance sampling on their common rows, the first ones (nats)."""
    rows = annealed.log_likelihood.numel()
    gain = Estimate(annealed.log_likelihood - likelihood.log_likelihood[:rows])
    return {
        "annealed_mean": finite(annealed.mean),
        "annealed_sampling_error": finite(error_of_mean(annealed.standard_error)),
        "importance_mean": finite(float(likelihood.log_likelihood[:rows].mean())),
        "importance_sampling_error": finite(error_of_mean(likelihood.standard_error[:rows])),
        "difference": finite(gain.mean),
        "difference_standard_error": finite(gain.standard_error),
    }


def likelihood(
    run: EvaluatedRun,
    options: EvaluationOptions,
    checkpoint: Path,
    progress: bool | Tell | None,
    part: tuple[int, int] | None = None,
) -> LogLikelihood:
    """Estimate log p(x) of the test data, or of a part of them.

    :param checkpoint: file from which a stopped estimate resumes.
    :raises CheckpointError: ``checkpoint`` is from an evaluation with other options, or damaged.
    """
    return log_likelihood(
        run.dvae.model,
        run.dvae.guide,
        run.x,
        num_samples=options.samples,
        proposal=options.proposal,
        num_corruptions=options.corruptions,
        defensive=options.defensive,
        widen=options.widen,
        refine=options.refine,
        seed=options.seed,
        memory=options.memory * MEGABYTE,
        compile=False if options.no_compile else None,
        bfloat16=options.bfloat16,
        keep_log_weight=options.keep_weights,
        checkpoint=checkpoint,
        progress=progress,
        max_plate_nesting=1,
        part=part,
    )


def _annealed(run: EvaluatedRun, options: EvaluationOptions, quiet: bool) -> AnnealedLikelihood:
    rows = run.x[: options.annealed]
    with _progress("annealing", quiet) as shown:
        return annealed_log_likelihood(
            run.dvae.model, run.dvae.guide, rows, progress=shown, **_annealing(options)
        )


def _simulated(run: EvaluatedRun, options: EvaluationOptions, quiet: bool) -> BidirectionalReport:
    like = run.x[:1].expand(options.simulated, -1)
    with _progress("annealing both ways", quiet) as shown:
        return bidirectional(run.dvae.model, run.dvae.guide, like, progress=shown, **_annealing(options))


def _annealing(options: EvaluationOptions) -> dict[str, Any]:
    return {
        "start": options.annealing_start,
        "num_steps": options.annealing_steps,
        "num_chains": options.chains,
        "seed": options.seed,
        "max_plate_nesting": 1,
        "memory": options.memory * MEGABYTE,
    }


def _progress(label: str, quiet: bool) -> AbstractContextManager[Tell]:
    return progress_of(label, False if quiet else None)


class _Clock:
    """Announces parts of the work, and stores the time of each."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str, text: str) -> Iterator[None]:
        if not self.quiet:
            print(f"evaluating: {text}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - start, 1)


SITE = "z"  # the latent of the ready-made models


def draw(folder: Path, run: EvaluatedRun, findings: Findings) -> list[Path]:
    """Draw every picture into ``folder`` and return their paths."""
    found, count = findings.likelihood, len(findings.likelihood)
    data = f"{run.title}, {count:,} test {'data' if count > 1 else 'datum'}"
    title = f"{data}, {found.num_samples:,} samples each, proposal: {found.proposal}"
    sizes, bounds = found.bound_by_samples
    drawn = {
        "log_likelihood_histogram": plots.log_likelihood_histogram(found.log_likelihood, title=title),
        "pareto_k": plots.pareto_k(found.pareto_k, found.threshold, title=title),
        "convergence": plots.convergence(
            sizes,
            bounds.mean(0),
            found.sampling_error,
            found.smoothed_mean,
            _annealed_picture(findings),
            title=f"{data}, proposal: {found.proposal}",
        ),
    }
    shape = run.data.dataset.image_shape
    if shape is not None:
        units, limits = run.data.dataset.units, run.data.dataset.limits
        assert isinstance(units, ArrayScale)
        drawn["hardest_and_easiest"] = plots.hardest_and_easiest(
            units.original(run.x), found.log_likelihood, shape, limits=limits, title=data
        )
    kl = findings.parts.kl_per_dimension.get(SITE)
    if kl is not None:
        active = findings.active
        shown = (None, 0.01) if active is None else (active.activity[SITE], active.threshold)
        drawn["kl_per_dimension"] = plots.kl_per_dimension(kl, *shown, title=data)
    return [plots.write_figure(folder / f"{name}.png", axes) for name, axes in drawn.items()]


def _annealed_picture(findings: Findings) -> tuple[float, float] | None:
    """Return mean and sampling error of annealing if it used all rows; else they cannot be compared."""
    annealed = findings.annealed
    if annealed is None or annealed.log_likelihood.numel() != len(findings.likelihood):
        return None
    error = same_data(findings.likelihood, annealed)["annealed_sampling_error"]
    return annealed.mean, float("nan") if error is None else error
