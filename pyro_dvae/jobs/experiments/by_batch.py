"""Runs in one process; on a GPU, runs of one structure are one batched computation (``fit_many``)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyro
import torch

from pyro_dvae.errors import DivergenceError
from pyro_dvae.jobs.data import RunData
from pyro_dvae.jobs.executors.run_progress import ProgressRelay, RunsProgress
from pyro_dvae.jobs.experiments.declaration import Planned
from pyro_dvae.jobs.experiments.one_run import SIDE_BY_SIDE, build, measured, perform, prepared
from pyro_dvae.jobs.experiments.results import Keep, Row, summary
from pyro_dvae.jobs.experiments.setting import CHECKPOINT_EVERY, Setting
from pyro_dvae.jobs.parts import training_settings
from pyro_dvae.training import fit_many
from pyro_dvae.training.progress import Progress

# Options that may differ between the models of a batched computation, except whether there is noise.
_MAY_DIFFER = ("noise", "noise_end", "seed", "learning_rate")


def perform_groups(
    grouped: Sequence[Sequence[Planned]], folder: Path, device: torch.device, watch: RunsProgress, keep: Keep
) -> list[str]:
    """Perform the runs in this process, all runs of a group at once, and pass each row to ``keep``.

    Return what diverged, by name.
    """
    diverged: list[str] = []
    for group in grouped:
        for each in group:
            watch.start(each.name)
        perform_group = _together if len(group) > 1 else _alone
        for each, outcome in perform_group(group, folder, device, watch):
            if isinstance(outcome, str):
                diverged.append(f"{each.name}: {outcome}")
                watch.end(each.name, outcome)
            else:
                keep(outcome)
                watch.end(each.name, summary(outcome))
    return diverged


def groups(planned: Sequence[Planned], width: int) -> list[list[Planned]]:
    """Group the runs by structure, with at most ``width`` in each group, in the order of the plan."""
    found: dict[str, list[Planned]] = {}
    for each in planned:
        found.setdefault(_structure(each), []).append(each)
    return [group[start : start + width] for group in found.values() for start in range(0, len(group), width)]


def _structure(planned: Planned) -> str:
    if planned.case.program not in SIDE_BY_SIDE or planned.options.binarisation == "dynamic":
        return planned.key  # alone, because its data are drawn at each visit, or it has several phases
    chosen = {k: v for k, v in planned.options.as_dict().items() if k not in _MAY_DIFFER}
    noisy = planned.options.noise > 0
    return json.dumps([planned.case.program, planned.case.train_size, noisy, chosen], sort_keys=True)


def _relay(group: Sequence[Planned], watch: RunsProgress) -> ProgressRelay:
    """Return the progress of a group's training, which reports for each of its runs."""

    def epoch(done: int, epochs: int) -> None:
        for each in group:
            watch.epoch(each.name, done, epochs)

    return ProgressRelay(epoch, lambda text: watch.note(group[0].name, text))


def _alone(
    group: Sequence[Planned], folder: Path, device: torch.device, watch: RunsProgress
) -> Iterator[tuple[Planned, Row | str]]:
    """Train the single run of a group; yield it with its row, or with the reason of its divergence."""
    try:
        yield group[0], perform(group[0], folder, device, _relay(group, watch))
    except DivergenceError as error:
        yield group[0], str(error)


def _together(
    group: Sequence[Planned], folder: Path, device: torch.device, watch: RunsProgress
) -> Iterator[tuple[Planned, Row | str]]:
    """Train the runs of a group at once; yield each with its row, or with the reason of its divergence.

    The checkpoint serves the whole group, so no row is yielded before all are measured.
    """
    progress = _relay(group, watch)
    settings = _settings(group, folder, device, progress)
    pairs = [build(each, setting) for each, setting in zip(group, settings, strict=True)]
    checks = [setting.validation(pair) for setting, pair in zip(settings, pairs, strict=True)]
    checkpoint = settings[0].checkpoint.with_name(f"{group[0].key}-{len(group)}.safetensors")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    fitted = fit_many(
        [(pair.model, pair.guide) for pair in pairs],
        [setting.data.train for setting in settings],
        loss=pairs[0].bound,
        seeds=[each.options.seed for each in group],
        learning_rate=[each.options.learning_rate for each in group],
        evaluate=lambda number: checks[number](),
        transform=settings[0].data.visit,
        checkpoint=checkpoint,
        checkpoint_every=CHECKPOINT_EVERY,
        resume=checkpoint.exists(),
        progress=progress,
        **training_settings(group[0].options),
    )
    share = (time.perf_counter() - began) / len(group)
    found: list[tuple[Planned, Row | str]] = []
    for each, setting, pair, one in zip(group, settings, pairs, fitted, strict=True):
        if one.history.best_epoch is None:
            found.append((each, "diverged: its loss is not finite"))
            continue
        one.load_best()
        pyro.clear_param_store()  # all runs have parameters with the same names
        found.append((each, measured(each, folder, setting, pair, one.history, share)))
    yield from found
    checkpoint.unlink(missing_ok=True)


def _settings(
    group: Sequence[Planned], folder: Path, device: torch.device, progress: Progress
) -> list[Setting]:
    """Return the settings of the runs; runs with one seed share their data."""
    by_seed: dict[int, RunData] = {}
    found = []
    for each in group:
        seed = each.options.seed
        found.append(prepared(each, folder, device, progress, by_seed.get(seed)))
        by_seed[seed] = found[-1].data
    return found
