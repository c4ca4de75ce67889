"""One run: the model, guide and bound of its case, from its plan to its row of figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pyro
import torch

from pyro_dvae.bounds import TraceDenoising_ELBO, TraceMeanFieldDenoising_ELBO
from pyro_dvae.datasets import load_dataset
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.jobs.data import RunData, described, prepare, versions
from pyro_dvae.jobs.experiments.declaration import WHERE_AND_HOW, Planned
from pyro_dvae.jobs.experiments.measures import MEASURES, Subject
from pyro_dvae.jobs.experiments.results import Row
from pyro_dvae.jobs.experiments.setting import Setting, TrainingPair
from pyro_dvae.jobs.parts import check_training
from pyro_dvae.models import DVAE, Autoencoder, LatentVariableModel
from pyro_dvae.models.bayes import FullBayes
from pyro_dvae.training import History
from pyro_dvae.training.progress import Progress


def dvae(setting: Setting) -> TrainingPair:
    """Return the DVAE of the options: a VAE where the noise is 0."""
    made = DVAE(setting.encoder(), setting.decoder(), setting.corruption)
    return TrainingPair(made.model, made.guide, setting.bound())


def autoencoder(setting: Setting) -> TrainingPair:
    """Return an autoencoder of the options' networks, denoising where there is noise."""
    made = Autoencoder(setting.encoder(), setting.decoder(), setting.corruption)
    return TrainingPair(
        made.model,
        made.guide,
        TraceDenoising_ELBO(num_corruptions=setting.options.corruptions, max_plate_nesting=1),
    )


def full_bayes(setting: Setting) -> TrainingPair:
    """Return a pair with a distribution of the decoder's weights, started at random."""
    guide = GaussianGuide(setting.encoder(), setting.corruption)
    return _bayes(LatentVariableModel(setting.decoder()), guide, setting)


def full_bayes_narrow_prior(setting: Setting) -> TrainingPair:
    """Return the same with a prior of the weights of standard deviation 0.1, about their own scale."""
    guide = GaussianGuide(setting.encoder(), setting.corruption)
    return _bayes(LatentVariableModel(setting.decoder()), guide, setting, prior_scale=0.1)


def full_bayes_from_trained(setting: Setting) -> TrainingPair:
    """Return the first, started from a DVAE that is trained first for as many epochs."""
    made = DVAE(setting.encoder(), setting.decoder(), setting.corruption)
    setting.fit(TrainingPair(made.model, made.guide, setting.bound()), phase="-start")
    guide = GaussianGuide(made.guide.encoder, setting.corruption)
    return _bayes(LatentVariableModel(made.model.decoder), guide, setting)


def _bayes(
    model: LatentVariableModel, guide: GaussianGuide, setting: Setting, prior_scale: float = 1.0
) -> TrainingPair:
    count = len(setting.data.train)
    made = FullBayes.from_trained(model, guide, count, prior_scale=prior_scale, bound_of="batch")
    bound = TraceMeanFieldDenoising_ELBO(num_corruptions=setting.options.corruptions, max_plate_nesting=1)
    return TrainingPair(made.model, made.guide, bound, (made.predictive(), made.guide.guide))


PROGRAMS: dict[str, Callable[[Setting], TrainingPair]] = {
    "dvae": dvae,
    "autoencoder": autoencoder,
    "full-bayes": full_bayes,
    "full-bayes-narrow-prior": full_bayes_narrow_prior,
    "full-bayes-from-trained": full_bayes_from_trained,
}

SIDE_BY_SIDE = ("dvae",)
"""Programs that one batched computation can train, many at a time."""


def perform(planned: Planned, folder: Path, device: torch.device, progress: Progress) -> Row:
    """Train and measure one run; a stopped one goes on from its checkpoint in ``folder``.

    Seeds Pyro from the run's seed and clears the param store, as a script of its own would.
    """
    computed, began = time.process_time(), time.perf_counter()
    setting = prepared(planned, folder, device, progress)
    pair = build(planned, setting)
    history = setting.fit(pair)
    row = measured(planned, folder, setting, pair, history, time.perf_counter() - began)
    row["seconds"]["cpu"] = round(time.process_time() - computed, 1)
    return row


def checkpoint_of(planned: Planned, folder: Path) -> Path:
    """Return where the run's checkpoint is kept while it is not finished."""
    return folder / "checkpoints" / f"{planned.key}.safetensors"


def prepared(
    planned: Planned, folder: Path, device: torch.device, progress: Progress, data: RunData | None = None
) -> Setting:
    """Return the setting of a run.

    :param data: those of another run of the same seed and structure; loaded where omitted.
    """
    check_training(planned.options)
    if data is None:
        data = _loaded(planned, device)
    return Setting(planned.options, data, device, checkpoint_of(planned, folder), progress)


def _loaded(planned: Planned, device: torch.device) -> RunData:
    options = planned.options
    data = prepare(load_dataset(options.dataset, options.data_folder), options, device)
    return replace(data, train=data.train[: planned.case.train_size])


def build(planned: Planned, setting: Setting) -> TrainingPair:
    """Make the pair of a run from its seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(planned.options.seed)
    pair = PROGRAMS[planned.case.program](setting)
    pyro.set_rng_seed(planned.options.seed)
    return pair


def measured(
    planned: Planned, folder: Path, setting: Setting, pair: TrainingPair, history: History, waited: float
) -> Row:
    """Return the row of a trained run.

    :param waited: seconds from the start of the run to the end of its training; of a run that was stopped
        in between those of the last part.
    """
    began = time.perf_counter()
    stem = folder / "pictures" / planned.key
    subject = Subject(*pair.measured, setting.corruption, setting.data, planned.options, stem)
    figures: Row = {}
    for name in ("bound", *planned.measures):
        figures |= MEASURES[name](subject)
    case = planned.case
    return {
        "experiment": planned.experiment,
        "key": planned.key,
        "row": case.row,
        "column": case.column,
        "seed": planned.options.seed,
        "program": case.program,
        "options": {k: v for k, v in planned.options.as_dict().items() if k not in WHERE_AND_HOW},
        "data": _data(setting),
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
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _data(setting: Setting) -> Row:
    known = described(setting.data.dataset)
    kept = {name: known[name] for name in ("name", "substituted_for", "sizes")}
    return kept | {"trained_on": len(setting.data.train)}


def _curve(history: History) -> Row:
    """Return the validated epochs: number, training and validation bound (nats per observation)."""
    columns = zip(history.epochs, history.train_bound, history.validation_bound, strict=True)
    kept = [(e, t, v) for e, t, v in columns if v is not None]
    return {
        "epoch": [e for e, _, _ in kept],
        "train": [None if t is None else round(t, 3) for _, t, _ in kept],
        "validation": [round(v, 3) for _, _, v in kept],
    }
