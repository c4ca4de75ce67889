"""One run: data, folder and device from the options; the trainer; the evaluation and pictures at its end."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_dvae import plots
from pyro_dvae.bounds import DenoisingELBO, TraceDenoising_ELBO, TraceDenoisingIWAE_ELBO
from pyro_dvae.datasets import Dataset, is_file_name, load_dataset
from pyro_dvae.distributed import Ranks, join
from pyro_dvae.distributed.ranks import together
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.evaluation import Estimate
from pyro_dvae.evaluation.over_ranks import evaluate_bound_over_ranks
from pyro_dvae.files import user_path
from pyro_dvae.jobs import folder as run_folder
from pyro_dvae.jobs.command import at_end, go_on_with
from pyro_dvae.jobs.data import described, prepare, require_same_data, versions
from pyro_dvae.jobs.images import manifold_means, prior_means, reconstructions
from pyro_dvae.jobs.options import Options, Request
from pyro_dvae.jobs.parts import (
    build_bound,
    build_clean_bound,
    build_corruption,
    build_decoder,
    build_encoder,
    check_training,
    pick_device,
    require_memory,
    training_settings,
)
from pyro_dvae.ownership import own
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.text import show
from pyro_dvae.training import Trainer

Program = Callable[..., Any]
_MAY_CHANGE = ("epochs", "device", "data_folder", "dataset", "importance_samples", "compiled")


class Run:
    """Everything around the Pyro code of a training script, from one :class:`Request`.

    Seeds Pyro from the options and clears its param store, as a script does; the library itself never does.
    Started by ``torchrun``, it joins the other processes; rank 0 writes and prints for all.

    :param request: what the command line asked for.
    """

    def __init__(self, request: Request) -> None:
        self.options, stored, resumed_folder = _options_and_folder(request)
        check_training(self.options)
        self.folder = resumed_folder or Path()
        self.group = join(self.options.device)
        self.ranks = Ranks.present(self._last_checkpoint)
        self.quiet = request.quiet or not self.ranks.first
        self.device = pick_device(self.group.device)
        build_corruption(self.options)  # refused before the data are fetched
        self.bound = build_bound(self.options)
        with self.ranks.first_goes_before():
            self.data = _load(self.options, stored)
        self.corruption = build_corruption(self.options, self.data.train)
        _check_range(self.options, self.data)
        parts = prepare(self.data, self.options, self.device)
        self.train, self.validation, self.test = parts.train, parts.validation, parts.test
        self.visit = parts.visit
        pyro.clear_param_store()
        pyro.set_rng_seed(self.options.seed)
        shape = (self.data.dimension, self.data.image_shape)
        require_memory(self.options, *shape, len(self.train))
        self.encoder = build_encoder(self.options, *shape).to(self.device)
        self.decoder = build_decoder(self.options, *shape).to(self.device)
        self.corruption.to(self.device)
        self.config = _config(self.options, self.data, stored)
        self.folder = self._owned(resumed_folder, request.output)
        # Killed before its first checkpoint, a run begins again, and ends as it would have.
        self.resumed = (self.folder / run_folder.CHECKPOINT).exists()
        go_on_with(self.folder / run_folder.CHECKPOINT)
        if self.ranks.first and not self.resumed:
            run_folder.write_json(self.folder / run_folder.CONFIG, self.config)
        self.say(f"data: {self.data.name} ({self.data.source})")
        self.say(f"run folder: {self.folder}")

    def _owned(self, resumed: Path | None, output: str | None) -> Path:
        """Return the run folder, which is this process's (with several, that of rank 0) from now on."""

        def take() -> Path | None:
            if not self.ranks.first:
                return None
            if resumed is None:
                folder, self._lock = run_folder.new_folder(output, _stem(self.options, self.data))
            else:
                folder, self._lock = resumed, own("resume", resumed)
            at_end(self.release)
            run_folder.clean_up(folder)
            return folder

        folder = together(self.ranks, take)[0]
        assert folder is not None
        return folder

    def release(self) -> None:
        """Let other processes write to the run folder."""
        if self.ranks.first:
            self._lock.release()

    def _last_checkpoint(self) -> str:
        path = self.folder / run_folder.CHECKPOINT
        return f"; last good checkpoint: {path}" if path.exists() else ""

    def say(self, line: str) -> None:
        """Print a line to the terminal's error stream, where progress goes too."""
        if not self.quiet:
            show(line, sys.stderr)

    def trainer(self, model: Program, guide: Program, bound: DenoisingELBO) -> Trainer:
        """Return the training loop; iterate over it, and over each of its epochs, and call its ``step``."""
        options = self.options
        validation_bound = build_clean_bound(options)

        def evaluate() -> float:
            seen = self.visit(self.validation)
            return evaluate_bound_over_ranks(model, guide, seen, loss=validation_bound, ranks=self.ranks).mean

        trainer = Trainer(
            model,
            guide,
            self.train,
            loss=bound,
            evaluate=evaluate,
            learning_rate=options.learning_rate,
            transform=self.visit,
            seed=options.seed,
            checkpoint=self.folder / run_folder.CHECKPOINT,
            resume=self.resumed,
            config=self.config["options"],
            metrics=self.folder / run_folder.METRICS,
            progress=False if self.quiet else None,
            device=self.device,
            may_change=_MAY_CHANGE,
            compile=options.compiled,
            **training_settings(options),
        )
        if self.resumed and self.ranks.first:  # accepted: a longer run, say
            run_folder.write_json(self.folder / run_folder.CONFIG, self.config)
        return trainer

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Evaluate the best epoch on the test data, draw the pictures, print and return the results."""
        started = time.perf_counter()
        trainer.load_best()
        model, guide = trainer.model, trainer.guide
        for part in (self.encoder, self.decoder, self.corruption):
            part.eval()
        results = self._evaluate(model, guide, trainer)

        def write() -> None:
            run_folder.require_present(self.folder)
            pictures = self._draw(model, guide, trainer)
            results["seconds"]["evaluation"] = round(time.perf_counter() - started, 1)
            run_folder.write_json(self.folder / run_folder.RESULTS, results)
            self.release()
            show(_table(results, self.folder, pictures))

        # All end together: a process that ends while others still speak can abort in their library's threads.
        together(self.ranks, write if self.ranks.first else lambda: None)
        self.group.leave()
        return results

    def _evaluate(self, model: Program, guide: Program, trainer: Trainer) -> dict[str, Any]:
        test = self.visit(self.test)
        bounds: dict[str, DenoisingELBO] = {"test_bound": TraceDenoising_ELBO(max_plate_nesting=1)}
        if self.options.bound == "diwae":
            bounds["trained_bound"] = build_clean_bound(self.options)
        samples = self.options.importance_samples
        if samples:
            bounds["importance_weighted_bound"] = TraceDenoisingIWAE_ELBO(
                num_corruptions=1, num_particles=samples, max_plate_nesting=1
            )
        history = trainer.history
        results: dict[str, Any] = {
            "data": self.config["data"],
            "epochs": len(history.epochs),
            "best_epoch": history.best_epoch,
            "best_validation_bound": history.best_validation_bound,
            "noise_levels": [_summary(level()) for level in self.corruption.levels()],
            "units": "nats per datum",
        }
        for name, bound in bounds.items():
            self.say(f"evaluating on {len(test):,} test data: {name.replace('_', ' ')}")
            seed = derived_seed(self.options.seed, "evaluation", name)
            estimate: Estimate = evaluate_bound_over_ranks(
                model, guide, test, loss=bound, seed=seed, ranks=self.ranks
            )
            results[name] = {"mean": estimate.mean, "standard_error": estimate.standard_error}
        if samples:
            results["importance_weighted_bound"]["samples"] = samples
        results["seconds"] = {
            "training": round(sum(history.seconds), 1),
            "compilation": round(trainer.compile_seconds, 1),
        }
        return results

    def _draw(self, model: Program, guide: Program, trainer: Trainer) -> list[Path]:
        shape, test, history = self.data.image_shape, self.visit(self.test), trainer.history
        title, folder = _title(self.options, self.data), self.folder
        with forked(derived_seed(self.options.seed, "pictures")):
            clean = test[:12]
            corrupted, reconstructed = reconstructions(model, guide, clean)
            made = [
                plots.learning_curves(
                    folder / "learning_curves.png",
                    history.epochs,
                    history.train_bound,
                    history.validation_bound,
                    history.best_epoch,
                    title,
                ),
                plots.image_grid(
                    folder / "prior_samples.png",
                    prior_means(model, test, 100).cpu(),
                    shape,
                    columns=10,
                    title=f"Pixel means of latents drawn from the prior: {title}",
                ),
                plots.denoising_grid(
                    folder / "reconstructions.png",
                    clean.cpu(),
                    corrupted.cpu(),
                    reconstructed.cpu(),
                    shape,
                    title=f"Test images: {title}",
                ),
            ]
            if self.options.latent_size == 2:
                images = manifold_means(model, test, 20, 20).cpu()
                made.append(
                    plots.manifold(folder / "manifold.png", images, shape, 20, 20, f"Latent space: {title}")
                )
        return made


def _options_and_folder(request: Request) -> tuple[Options, dict[str, Any] | None, Path | None]:
    """Return the options, and of a resumed run the content of its ``config.json`` and its folder."""
    if request.resume is None:
        return _absolute(request.options), None, None
    if request.output is not None:
        raise InputError("output: a resumed run stays in its folder; give --resume or --output, not both")
    folder = user_path("resume", request.resume)
    config = run_folder.read_config(folder)
    options = run_folder.options_of(config)
    given = _absolute(request.options)
    asked = {name: getattr(given, name) for name in request.given}
    fixed = sorted(
        name for name, value in asked.items() if name not in _MAY_CHANGE and value != getattr(options, name)
    )
    if fixed:
        name = fixed[0]
        raise InputError(f"{name}: the run in {folder} has {getattr(options, name)!r}, got {asked[name]!r}")
    return dataclasses.replace(options, **asked), config, folder


def _absolute(options: Options) -> Options:
    """Return the options with paths that mean the same from every working directory."""
    dataset = options.dataset
    if dataset is not None and is_file_name(dataset):
        dataset = str(user_path("dataset", dataset).absolute())
    folder = str(user_path("data_folder", options.data_folder).absolute())
    return dataclasses.replace(options, dataset=dataset, data_folder=folder)


def _load(options: Options, stored: dict[str, Any] | None) -> Dataset:
    """Load the data; those of a resumed run that stood in for others are loaded by their own name."""
    if stored is None or options.dataset is not None:
        return load_dataset(options.dataset, options.data_folder)
    data = load_dataset(stored["data"]["name"], options.data_folder)
    return dataclasses.replace(data, substituted_for=stored["data"]["substituted_for"])


def _check_range(options: Options, data: Dataset) -> None:
    if (
        options.noise_kind == "bit-flip"
        and options.noise
        and not data.binary
        and options.binarisation == "none"
    ):
        raise DataError("noise_kind: bit-flip wants binary pixels; choose a --binarisation other than none")


def _stem(options: Options, data: Dataset) -> str:
    kind = "" if options.noise_kind == "salt-and-pepper" else f"{options.noise_kind}-"
    return f"{Path(data.name).stem}-{options.bound}-{kind}noise{options.noise:g}-seed{options.seed}"


def _title(options: Options, data: Dataset) -> str:
    name = f"{data.name} (in place of {data.substituted_for})" if data.substituted_for else data.name
    return f"{name}, {options.noise_kind} {options.noise:g}, {options.bound.upper()}"


def _config(options: Options, data: Dataset, stored: dict[str, Any] | None) -> dict[str, Any]:
    """Return the content of ``config.json``; of a resumed run what it says, but for options that changed."""
    if stored is None:
        return {"options": options.as_dict(), "data": described(data), "versions": versions()}
    require_same_data(stored["data"], data)
    now, defaults = options.as_dict(), Options().as_dict()
    # An option that the version which began the run did not have stays out, as its checkpoint says nothing.
    kept = {name: now[name] for name in now if name in stored["options"] or now[name] != defaults[name]}
    return stored | {"options": kept}


def _summary(level: torch.Tensor) -> float:
    return float(level.detach().mean())


def _table(results: dict[str, Any], folder: Path, pictures: list[Path]) -> str:
    """Return the closing table: figures, then where everything was written."""
    rows = [("data", results["data"]["name"])]
    if results["data"]["substituted_for"]:
        rows.append(("", f"NOT {results['data']['substituted_for']}, which could not be had"))
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
            rows.append((label, f"{figure['mean']:.2f} ± {figure['standard_error']:.2f} nats{samples}"))
    files = [folder / name for name in (run_folder.CONFIG, run_folder.METRICS, run_folder.RESULTS)]
    files += [folder / run_folder.CHECKPOINT, *pictures]
    labels = ["options and data", "bounds by epoch", "these results", "checkpoint"]
    labels += [path.stem.replace("_", " ") for path in pictures]
    rows += [(label, str(path)) for label, path in zip(labels, files, strict=True)]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
