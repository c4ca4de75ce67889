"""One run: the model, guide and bound of its case, from its plan to its row of results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pyro_dvae.bounds import TraceDenoising_ELBO, TraceMeanFieldDenoising_ELBO
from pyro_dvae.engine import bfloat16_pays
from pyro_dvae.jobs.data import RunData, described, digest_of_own, load_of, prepare, versions
from pyro_dvae.jobs.experiments.declaration import WHERE_AND_HOW, Planned
from pyro_dvae.jobs.experiments.measures import MEASURES
from pyro_dvae.jobs.experiments.results import Row
from pyro_dvae.jobs.experiments.setting import Setting, TrainingPair
from pyro_dvae.jobs.experiments.trained import TrainedPair
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import check_training, pick_device
from pyro_dvae.models import DVAE, Autoencoder
from pyro_dvae.models.bayes import (
    FullBayes,
    LocallyReparameterised,
    ScaleMixture,
    StudentWeight,
    WeightPrior,
)
from pyro_dvae.training import History
from pyro_dvae.training.progress import Progress
from pyro_dvae.using.refitting import HalfAsleep


def dvae(setting: Setting) -> TrainingPair:
    """Return the DVAE of the options, which is a VAE if the noise is 0."""
    made = DVAE(setting.encoder(), setting.decoder(), setting.corruption)
    return TrainingPair(made.model, made.guide, setting.bound())


def refitted(setting: Setting) -> TrainingPair:
    """Return a trained DVAE whose encoder is trained again, with half of the rows drawn by the decoder."""
    pair = dvae(setting)
    setting.fit(pair, phase="-start")
    return TrainingPair(pair.model, pair.guide, HalfAsleep(pair.bound), freeze=pair.model.decoder)  # type: ignore[attr-defined]


def consistent(setting: Setting) -> TrainingPair:
    """Return the DVAE of the options, with a penalty on changes of the encoding by corruption."""
    pair, options = dvae(setting), setting.options
    bound = TraceDenoising_ELBO(
        num_corruptions=options.corruptions,
        num_particles=options.particles,
        consistency=CONSISTENCY,
        max_plate_nesting=1,
    )
    return TrainingPair(pair.model, pair.guide, bound)


def autoencoder(setting: Setting) -> TrainingPair:
    """Return an autoencoder with the options' networks, which is denoising if there is noise."""
    made = Autoencoder(setting.encoder(), setting.decoder(), setting.corruption)
    return TrainingPair(
        made.model,
        made.guide,
        TraceDenoising_ELBO(num_corruptions=setting.options.corruptions, max_plate_nesting=1),
    )


def penalised(program: Callable[[Setting], TrainingPair]) -> Callable[[Setting], TrainingPair]:
    """Return a program with an L2 penalty on the weights of both networks, which is a prior N(0, 1) of each.

    The penalty of a batch is scaled by its share of the data; measures have no penalty.
    """

    def made(setting: Setting) -> TrainingPair:
        pair = program(setting)
        model, guide, count = pair.model, pair.guide, len(setting.data.train)
        networks = (model.decoder, guide.encoder)  # type: ignore[attr-defined]

        def with_penalty(x: Tensor) -> Tensor:
            z: Tensor = model(x)
            squares = sum(each.square().sum() for network in networks for each in network.parameters())
            pyro.factor("penalty", -0.5 * squares * len(x) / count)
            return z

        return TrainingPair(with_penalty, guide, pair.bound, (model, guide))

    return made


def bayesian(
    weight_prior: float | WeightPrior = 1.0, *, trained: bool = False, local: bool = False
) -> Callable[[Setting], TrainingPair]:
    """Return a program with a distribution of the decoder's weights.

    :param trained: start from a DVAE trained for the same number of epochs, instead of random weights.
    :param local: draw the units' inputs for each row instead of the weights.
    """

    def made(setting: Setting) -> TrainingPair:
        start = DVAE(setting.encoder(), setting.decoder(), setting.corruption)
        if trained:
            setting.fit(TrainingPair(start.model, start.guide, setting.bound()), phase="-start")
        pair = FullBayes.from_trained(
            start.model, start.guide, len(setting.data.train), weight_prior=weight_prior, bound_of="batch"
        )
        bound = TraceMeanFieldDenoising_ELBO(num_corruptions=setting.options.corruptions, max_plate_nesting=1)
        measured_as = (pair.predictive(), pair.guide.guide)
        if local:
            return TrainingPair(LocallyReparameterised(pair), pair.guide.guide, bound, measured_as)
        return TrainingPair(pair.model, pair.guide, bound, measured_as)

    return made


CONSISTENCY = 1.0  # weight of the regulariser of CR-VAE

PROGRAMS: dict[str, Callable[[Setting], TrainingPair]] = {
    "dvae": dvae,
    "dvae-refitted": refitted,
    "dvae-consistent": consistent,
    "autoencoder": autoencoder,
    "dvae-penalised": penalised(dvae),
    "autoencoder-penalised": penalised(autoencoder),
    "full-bayes": bayesian(),
    "full-bayes-narrow-prior": bayesian(0.1),
    "full-bayes-scale-mixture": bayesian(ScaleMixture()),
    "full-bayes-scale-prior": bayesian(StudentWeight()),
    "full-bayes-local": bayesian(local=True),
    "full-bayes-from-trained": bayesian(trained=True),
}

SIDE_BY_SIDE = ("dvae",)
"""Programs that one batched computation can train, many at a time."""


def perform(planned: Planned, folder: Path, device: torch.device, progress: Progress) -> Row:
    """Train and measure one run; a stopped run continues from its checkpoint in ``folder``.

    It seeds Pyro with the run's seed and clears the param store, like a separate script.
    """
    computed, began = time.process_time(), time.perf_counter()
    setting = prepared(planned, folder, device, progress)
    pair = build(planned, setting)
    history = setting.fit(pair)
    row = measured(planned, folder, setting, pair, history, time.perf_counter() - began)
    row["seconds"]["cpu"] = round(time.process_time() - computed, 1)
    if setting.cpu_of_epoch is not None:
        row["seconds"]["cpu_of_epoch"] = round(setting.cpu_of_epoch, 4)
    return row


def perform_elsewhere(planned: Planned, progress: Progress, *, folder: Path, device: str) -> Row:
    """Perform one run in a worker, which chooses its own device for ``"auto"``."""
    return perform(planned, folder, pick_device(device), progress)


def checkpoint_of(planned: Planned, folder: Path) -> Path:
    """Return the path of the checkpoint of an unfinished run."""
    return folder / "checkpoints" / f"{planned.key}.safetensors"


def prepared(
    planned: Planned, folder: Path, device: torch.device, progress: Progress, data: RunData | None = None
) -> Setting:
    """Return the setting of a run.

    :param data: data of another run with the same seed and structure; loaded by default.
    """
    check_training(planned.options)
    if data is None:
        data = _loaded(planned, device)
    for name in planned.measures:
        MEASURES[name].require_defined(name, planned.options, data.dataset)
    return Setting(planned.options, data, device, checkpoint_of(planned, folder), progress)


def _loaded(planned: Planned, device: torch.device) -> RunData:
    options = planned.options
    data = prepare(load_of(options), options, device)
    return replace(data, train=data.train[: planned.case.train_size])


def build(planned: Planned, setting: Setting) -> TrainingPair:
    """Make the pair of a run with its seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(planned.options.seed)
    pair = PROGRAMS[planned.case.program](setting)
    pyro.set_rng_seed(planned.options.seed)
    return pair


def measured(
    planned: Planned, folder: Path, setting: Setting, pair: TrainingPair, history: History, waited: float
) -> Row:
    """Return the row of a trained run.

    :param waited: seconds from the (last) start of the run to the end of its training.
    """
    began = time.perf_counter()
    stem = folder / "pictures" / planned.key
    trained = TrainedPair(*pair.measured, setting.corruption, setting.data, planned.options, stem)
    figures: Row = {}
    for name in ("bound", *planned.measures):
        figures |= MEASURES[name](trained)
    case = planned.case
    return {
        "experiment": planned.experiment,
        "key": planned.key,
        "row": case.row,
        "column": case.column,
        "seed": planned.options.seed,
        "program": case.program,
        "options": {k: v for k, v in planned.options.as_dict().items() if k not in WHERE_AND_HOW},
        "data": _data(setting, planned.options),
        "measures": sorted(planned.measures),
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "figures": figures,
        "curve": _curve(history),
        "seconds": {
            "steps": round(sum(history.seconds), 1),
            "training": round(waited, 1),
            "compilation": round(setting.compile_seconds, 1),
            "measuring": round(time.perf_counter() - began, 1),
        },
        "threads": torch.get_num_threads(),
        "device": str(setting.device),
        "bfloat16": planned.options.bfloat16 and bfloat16_pays(setting.device),
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _data(setting: Setting, options: Options) -> Row:
    known, digest = described(setting.data.dataset), digest_of_own(options, setting.data.dataset)
    kept = {name: known[name] for name in ("name", "substituted_for", "sizes")}
    return kept | {"trained_on": len(setting.data.train)} | ({} if digest is None else {"digest": digest})


def _curve(history: History) -> Row:
    """Return the validated epochs: number, training and validation bound (nats per observation)."""
    columns = zip(history.epochs, history.train_bound, history.validation_bound, strict=True)
    kept = [(e, t, v) for e, t, v in columns if v is not None]
    return {
        "epoch": [e for e, _, _ in kept],
        "train": [None if t is None else round(t, 3) for _, t, _ in kept],
        "validation": [round(v, 3) for _, _, v in kept],
    }
