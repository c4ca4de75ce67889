"""The pictures of an evaluation, from its findings."""

from __future__ import annotations

from pathlib import Path

from pyro_dvae.evaluation import likelihood_pictures as pictures
from pyro_dvae.runs.evaluation_findings import Findings, same_data
from pyro_dvae.runs.evaluation_subject import Subject

SITE = "z"  # the latent of the ready-made models


def draw(folder: Path, subject: Subject, findings: Findings) -> list[Path]:
    """Draw every picture into ``folder`` and return their paths."""
    found, count = findings.likelihood, len(findings.likelihood)
    data = f"{subject.title}, {count:,} test {'data' if count > 1 else 'datum'}"
    title = f"{data}, {found.num_samples:,} samples each, proposal: {found.proposal}"
    sizes, bounds = found.bound_by_samples
    made = [
        pictures.log_likelihood_histogram(
            folder / "log_likelihood_histogram.png", found.log_likelihood, title
        ),
        pictures.pareto_k(folder / "pareto_k.png", found.pareto_k, found.threshold, title),
        pictures.convergence(
            folder / "convergence.png",
            sizes,
            bounds.mean(0),
            found.sampling_error,
            found.smoothed_mean,
            _annealed(findings),
            f"{data}, proposal: {found.proposal}",
        ),
        pictures.hardest_and_easiest(
            folder / "hardest_and_easiest.png",
            subject.x,
            found.log_likelihood,
            subject.data.dataset.image_shape,
            data,
        ),
    ]
    kl = findings.parts.kl_per_dimension.get(SITE)
    if kl is not None:
        active = findings.active
        made.append(
            pictures.kl_per_dimension(
                folder / "kl_per_dimension.png",
                kl,
                None if active is None else active.activity[SITE],
                0.01 if active is None else active.threshold,
                data,
            )
        )
    return made


def _annealed(findings: Findings) -> tuple[float, float] | None:
    """Return mean and sampling error of annealing, if it was of all the data: else they do not compare."""
    annealed = findings.annealed
    if annealed is None or annealed.log_likelihood.numel() != len(findings.likelihood):
        return None
    error = same_data(findings.likelihood, annealed)["annealed_sampling_error"]
    return annealed.mean, float("nan") if error is None else error
