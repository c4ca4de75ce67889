"""The measures of a trained pair: functions that return values. A new measure needs one entry here."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from pyro_dvae import plots
from pyro_dvae.bounds import (
    DenoisingELBO,
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceSemiImplicit_ELBO,
)
from pyro_dvae.conditioning import inference_gaps
from pyro_dvae.evaluation import (
    Refinement,
    active_units,
    latent_means,
    log_likelihood,
    reconstruction_error,
)
from pyro_dvae.jobs.experiments.results import packed
from pyro_dvae.jobs.experiments.trained import Figures, Measure, TrainedPair, figure
from pyro_dvae.jobs.parts import build_clean_bound
from pyro_dvae.jobs.sampling import decoded, manifold_means, prior_means

SAMPLES, MIXTURE, PARTICLES = 200, 10, 5
REFINED_DATA, REFINED_SAMPLES = 1_000, 1_000
GAP_DATA, GAP_SAMPLES, GAP_STEPS, PARETO_K = 100, 1_000, 150, 0.7
DRAWS = 100_000  # for all rows together; one draw of each of 10,000 images would have an error of 0.07 nats
TILES = 20  # of a manifold, along each side


def bound(trained: TrainedPair) -> Figures:
    """Measure the trained bound on clean test input: L_dvae, or L_diwae with the same number of latents."""
    loss = _clean_bound(trained, trained.test)
    return {"bound": trained.bound_of(trained.test, loss, "bound", pointwise=True)}


def training(trained: TrainedPair) -> Figures:
    """Measure the trained bound on (the first 10,000) training rows, which shows over-fitting."""
    rows = trained.training_rows
    return {"training_bound": trained.bound_of(rows, _clean_bound(trained, rows), "training")}


def bounds(trained: TrainedPair) -> Figures:
    """Measure L_dvae, L_J (J = 10) and L_diwae (K = 5) of the test data, on clean and on corrupted input."""
    draws = _draws(trained.test)
    of = {
        "dvae": TraceDenoising_ELBO(num_corruptions=draws, max_plate_nesting=1),
        f"semi_implicit_{MIXTURE}": TraceSemiImplicit_ELBO(
            num_corruptions=draws, num_mixture=MIXTURE, max_plate_nesting=1
        ),
        f"diwae_{PARTICLES}": TraceDenoisingIWAE_ELBO(
            num_corruptions=draws, num_particles=PARTICLES, max_plate_nesting=1
        ),
    }
    return {
        # One seed for all bounds on the same input, so that shared draws reduce the noise of differences.
        f"{name}_{kind}": trained.bound_of(trained.test, each, kind, clean=kind == "clean")
        for kind in ("clean", "corrupted")
        for name, each in of.items()
    }


def likelihood(trained: TrainedPair) -> Figures:
    """Measure log p(x) of the test data by importance sampling with the guide on clean input."""
    found = log_likelihood(
        trained.model,
        trained.guide,
        trained.test,
        num_samples=SAMPLES,
        proposal="clean",
        seed=trained.seed("likelihood"),
        max_plate_nesting=1,
        progress=False,
    )
    return {
        "log_likelihood": {
            "mean": found.mean,
            "standard_error": found.standard_error_of_mean,
            "samples": found.num_samples,
            "share_unreliable": found.share_unreliable,
        }
    }


def refined_likelihood(trained: TrainedPair) -> Figures:
    """Measure log p(x) of the first 1,000 test rows with proposals that are refined where needed."""
    found = log_likelihood(
        trained.model,
        trained.guide,
        trained.test[:REFINED_DATA],
        num_samples=REFINED_SAMPLES,
        refine=True,
        seed=trained.seed("refined"),
        max_plate_nesting=1,
        progress=False,
    )
    return {
        "refined_log_likelihood": {
            "mean": found.mean,
            "standard_error": found.standard_error_of_mean,
            "samples": found.num_samples,
            "share_unreliable": found.share_unreliable,
            "of_rows": packed(found.log_likelihood.cpu()),
        }
    }


def gaps(trained: TrainedPair) -> Figures:
    """Measure log p(x) and the gaps of inference (diagonal Gaussian) of 100 test and 100 training rows."""
    figures: Figures = {}
    parts = {"test": trained.test, "training": trained.data.visit(trained.data.train[:GAP_DATA])}
    for part, rows in parts.items():
        found = inference_gaps(
            trained.model,
            trained.guide,
            rows[:GAP_DATA],
            refine=Refinement(num_steps=GAP_STEPS),
            num_samples=GAP_SAMPLES,
            seed=trained.seed("gaps"),
            max_plate_nesting=1,
            progress=False,
        )
        values = {
            "log_likelihood": found.log_likelihood,
            "approximation_gap": found.approximation(),
            "approximation_gap_full": found.approximation("full"),
            "amortisation_gap": found.amortisation(),
        }
        for name, each in values.items():
            error = float(each.std()) / math.sqrt(len(each))
            kept = {"mean": float(each.mean()), "standard_error": error, "of_rows": packed(each.cpu())}
            figures[f"{part}_{name}"] = kept
        doubtful = (found.pareto_k > PARETO_K) & ~found.annealed
        figures[f"{part}_log_likelihood"]["share_unreliable"] = float(doubtful.double().mean())
    return figures


def reconstruction(trained: TrainedPair) -> Figures:
    """Measure squared error and cross-entropy of the test data, decoded from the mean and sampled codes.

    It draws ten test images, and below each the image decoded from its mean code.
    """
    found = reconstruction_error(trained.model, trained.guide, trained.test, seed=trained.seed("codes"))
    figures: Figures = {}
    for name, each in (("mean_code", found.from_mean), ("sampled_codes", found.from_samples)):
        if each is not None:
            figures[f"squared_error_{name}"] = figure(each.squared, pointwise=True)
            if each.cross_entropy is not None:
                figures[f"cross_entropy_{name}"] = figure(each.cross_entropy)
    x = trained.test[:10]
    codes = latent_means(trained.model, trained.guide, x)["z"]
    images = torch.cat([x, decoded(trained.model, x, codes)]).cpu()
    axes = plots.image_grid(images, trained.data.dataset.picture_shape, columns=len(x))
    plots.write_figure(_png(trained, "digits"), axes)
    return figures


def training_error(trained: TrainedPair) -> Figures:
    """Measure the squared error of (the first 10,000) training rows, decoded from the mean code."""
    rows = trained.training_rows
    found = reconstruction_error(
        trained.model, trained.guide, rows, num_samples=1, seed=trained.seed("codes")
    )
    assert found.from_mean is not None
    return {"training_squared_error_mean_code": figure(found.from_mean.squared)}


def units(trained: TrainedPair) -> Figures:
    """Count the active latent units (Burda et al. 2016)."""
    found = active_units(trained.model, trained.guide, trained.test, seed=trained.seed("units"))
    return {"active_units": {"mean": float(found.count)}}


def noise(trained: TrainedPair) -> Figures:
    """Return the level of the corruption, if it has one."""
    levels = [float(level().detach().mean()) for level in trained.corruption.levels()]
    return {"noise": {"mean": levels[0]}} if levels else {}


def manifold(trained: TrainedPair) -> Figures:
    """Draw the images over the two latents, by the inverse Gaussian distribution function."""
    images = manifold_means(trained.model, trained.test, TILES, TILES).cpu()
    shape = trained.data.dataset.picture_shape
    plots.write_figure(_png(trained, "manifold"), plots.manifold(images, shape, TILES, TILES))
    return {}


def samples(trained: TrainedPair) -> Figures:
    """Draw images of latents from the prior."""
    images = prior_means(trained.model, trained.test, 100).cpu()
    axes = plots.image_grid(images, trained.data.dataset.picture_shape, columns=10)
    plots.write_figure(_png(trained, "samples"), axes)
    return {}


def _draws(x: Tensor) -> int:
    """Return the number of draws of each row."""
    return min(max(math.ceil(DRAWS / len(x)), 1), 500)


def _clean_bound(trained: TrainedPair, x: Tensor) -> DenoisingELBO:
    return build_clean_bound(trained.options, _draws(x))


def _png(trained: TrainedPair, kind: str) -> Path:
    return trained.stem.with_name(f"{trained.stem.name}-{kind}.png")


def _names(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of values: each of the first parts with each of the second."""
    return tuple(f"{one}_{other}" for one in first for other in second)


MEASURES: dict[str, Measure] = {
    "bound": Measure(bound, ("bound",)),
    "training": Measure(training, ("training_bound",)),
    "bounds": Measure(
        bounds,
        _names(("dvae", f"semi_implicit_{MIXTURE}", f"diwae_{PARTICLES}"), ("clean", "corrupted")),
    ),
    "likelihood": Measure(likelihood, ("log_likelihood",)),
    "refined-likelihood": Measure(refined_likelihood, ("refined_log_likelihood",)),
    "inference-gaps": Measure(
        gaps,
        _names(
            ("test", "training"),
            ("log_likelihood", "approximation_gap", "approximation_gap_full", "amortisation_gap"),
        ),
    ),
    "reconstruction": Measure(
        reconstruction,
        _names(("squared_error", "cross_entropy"), ("mean_code", "sampled_codes")),
        images=True,
    ),
    "training-error": Measure(training_error, ("training_squared_error_mean_code",)),
    "units": Measure(units, ("active_units",)),
    "noise": Measure(noise, ("noise",)),
    "manifold": Measure(manifold, images=True, latent_size=2),
    "samples": Measure(samples, images=True),
}
