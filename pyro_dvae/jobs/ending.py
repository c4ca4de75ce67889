"""The end of a training run: bounds on the test data, pictures, and the closing table."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
from torch import Tensor

from pyro_dvae import plots
from pyro_dvae.bounds import DenoisingELBO, TraceDenoising_ELBO, TraceDenoisingIWAE_ELBO
from pyro_dvae.corruptions import Corruption
from pyro_dvae.datasets import Dataset
from pyro_dvae.datasets.array_scale import ArrayScale
from pyro_dvae.distributed import Ranks
from pyro_dvae.evaluation import Estimate, latent_means
from pyro_dvae.evaluation.estimates import evaluate_bound_over_ranks, finite, plus_minus
from pyro_dvae.jobs import folder as run_folder
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import build_clean_bound
from pyro_dvae.jobs.sampling import manifold_means, prior_means, reconstructions
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.sites import clean_input
from pyro_dvae.text import labelled
from pyro_dvae.training import Trainer

_ROWS_SHOWN = 2000


def test_results(
    trainer: Trainer,
    test: Tensor,
    options: Options,
    corruption: Corruption,
    ranks: Ranks,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Return the content of ``results.json``: training, and bounds on the test data (nats per observation).

    :param test: test data in the form of the model's input, [N, D].
    :param say: called with progress messages.
    """
    bounds: dict[str, DenoisingELBO] = {"test_bound": TraceDenoising_ELBO(max_plate_nesting=1)}
    if options.bound == "diwae":
        bounds["trained_bound"] = build_clean_bound(options)
    samples = options.importance_samples
    if samples:
        bounds["importance_weighted_bound"] = TraceDenoisingIWAE_ELBO(
            num_corruptions=1, num_particles=samples, max_plate_nesting=1
        )
    history = trainer.history
    results: dict[str, Any] = {
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "best_validation_bound": history.best_validation_bound,
        "noise_levels": [float(level().detach().mean()) for level in corruption.levels()],
        "units": "nats per observation",
    }
    for name, bound in bounds.items():
        say(f"evaluating on {len(test):,} test rows: {name.replace('_', ' ')}")
        seed = derived_seed(options.seed, "evaluation", name)
        estimate: Estimate = evaluate_bound_over_ranks(
            trainer.model, trainer.guide, test, loss=bound, seed=seed, ranks=ranks
        )
        results[name] = {"mean": estimate.mean, "standard_error": finite(estimate.standard_error)}
    if samples:
        results["importance_weighted_bound"]["samples"] = samples
    results["seconds"] = {
        "training": round(sum(history.seconds), 1),
        "compilation": round(trainer.compile_seconds, 1),
    }
    return results


def draw_pictures(
    trainer: Trainer, test: Tensor, options: Options, data: Dataset, folder: Path
) -> list[Path]:
    """Draw learning curves, samples and reconstructions into the run folder; return their files."""
    history, title = trainer.history, _title(options, data)
    bounds = (history.train_bound, history.validation_bound)
    drawn = {
        "learning_curves": plots.learning_curves(history.epochs, *bounds, history.best_epoch, title=title)
    }
    with forked(derived_seed(options.seed, "pictures")):
        if data.image_shape is None:
            drawn |= _of_table(trainer, test, data, title)
        else:
            drawn |= _of_images(trainer, test, options, data, title)
    return [plots.write_figure(folder / f"{name}.png", axes) for name, axes in drawn.items()]


def _of_images(trainer: Trainer, test: Tensor, options: Options, data: Dataset, title: str) -> dict[str, Any]:
    model, guide, shape = trainer.model, trainer.guide, data.picture_shape
    units, limits = data.units, data.limits
    assert isinstance(units, ArrayScale)
    corrupted, reconstructed = reconstructions(model, guide, test[:12])
    drawn = {
        "prior_samples": plots.image_grid(
            units.original(prior_means(model, test, 100)),
            shape,
            columns=10,
            limits=limits,
            title=f"Pixel means of latents drawn from the prior: {title}",
        ),
        "reconstructions": plots.denoising_grid(
            units.original(test[:12]),
            units.original(corrupted),
            units.original(reconstructed),
            shape,
            limits=limits,
            title=f"Test images: {title}",
        ),
    }
    if options.latent_size == 2:
        images = units.original(manifold_means(model, test, 20, 20))
        drawn["manifold"] = plots.manifold(
            images, shape, 20, 20, limits=limits, title=f"Latent space: {title}"
        )
    return drawn


def _of_table(trainer: Trainer, test: Tensor, data: Dataset, title: str) -> dict[str, Any]:
    rows = test[:_ROWS_SHOWN]
    with clean_input():
        _, reconstructed = reconstructions(trainer.model, trainer.guide, rows)
    pair = (data.units.back(rows), data.units.back(reconstructed))
    with pyro.settings.context(module_local_params=True):
        codes = latent_means(trainer.model, trainer.guide, rows)["z"]
    labels = None if data.test_labels is None else data.test_labels[: len(rows)]
    drawn: dict[str, Any] = {}
    if data.columns is None or any(not each.levels for each in data.columns.columns):
        heading = f"Test rows: {title}"
        drawn["reconstructions"] = plots.observed_and_reconstructed(*pair, title=heading)
        drawn["column_errors"] = plots.column_errors(*pair, title=heading)
    if len(rows) > 1:
        drawn["codes"] = plots.latent_scatter(codes, labels, title=f"Codes of test rows: {title}")
    return drawn


def _title(options: Options, data: Dataset) -> str:
    name = f"{data.name} (in place of {data.substituted_for})" if data.substituted_for else data.name
    return f"{name}, {options.noise_kind} {options.noise:g}, {options.bound.upper()}"


def closing_table(results: dict[str, Any], folder: Path, pictures: list[Path]) -> str:
    """Return the closing table: values, files written, and the next steps."""
    rows = [("data", results["data"]["name"])]
    if results["data"]["substituted_for"]:
        rows.append(("", f"NOT {results['data']['substituted_for']}, which is not available"))
    if results["best_epoch"] is not None:
        best = f"{results['best_epoch']} of {results['epochs']}"
        rows.append(
            ("best epoch by validation", f"{best} (bound {results['best_validation_bound']:.2f} nats)")
        )
    for name, label in (
        ("test_bound", "test bound"),
        ("trained_bound", "test bound, as trained"),
        ("importance_weighted_bound", "importance-weighted bound"),
    ):
        if name in results:
            figure = results[name]
            samples = f", {figure['samples']} samples" if "samples" in figure else ""
            rows.append((label, f"{plus_minus(figure['mean'], figure['standard_error'], 2)} nats{samples}"))
    rows.append(("run folder", str(folder)))
    files = (run_folder.CHECKPOINT, run_folder.CONFIG, run_folder.METRICS, run_folder.RESULTS)
    rows.append(("", ", ".join([*files, *(path.name for path in pictures)])))
    quoted = shlex.quote(str(folder))
    # Rows of a table are scaled by the command, and categories have no mean for denoise to return.
    table = results["data"].get("columns") is not None
    use = f"pyro-dvae score {quoted} FILE" if table else f"dv.load({str(folder)!r}).denoise(rows)"
    return "\n".join([labelled(rows), f"next: pyro-dvae evaluate {quoted}", f"      {use}"])
