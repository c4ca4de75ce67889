"""Several runs side by side on a GPU: those of one structure are one batched computation (``fit_many``)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_dvae.errors import DivergenceError
from pyro_dvae.experiments.declaration import Planned
from pyro_dvae.experiments.performing import build, measured, perform, prepared
from pyro_dvae.experiments.processes import summary
from pyro_dvae.experiments.programs import SIDE_BY_SIDE
from pyro_dvae.experiments.setting import CHECKPOINT_EVERY, Setting
from pyro_dvae.experiments.watching import Told, Watch
from pyro_dvae.runs.data import RunData
from pyro_dvae.training import fit_many
from pyro_dvae.training.progress import Progress

Row = dict[str, Any]
# What may differ between the models of one batched computation; whether there is noise at all may not.
_MAY_DIFFER = ("noise", "noise_end", "seed", "learning_rate")


def perform_batched(
    planned: Sequence[Planned],
    folder: Path,
    device: torch.device,
    width: int,
    watch: Watch,
    keep: Callable[[Row], None],
) -> list[str]:
    """Perform the runs, up to ``width`` of one structure at once, and give each row to ``keep``.

    A run that no other resembles, or whose program cannot be batched, is trained alone. Returns the names of
    what diverged.
    """
    diverged: list[str] = []
    for group in groups(planned, width):
        for each in group:
            watch.start(each.name)
        found = (
            _together(group, folder, device, watch)
            if len(group) > 1
            else _alone(group, folder, device, watch)
        )
        for each, row in found:
            if row is None:
                diverged.append(f"{each.name}: its loss is not finite")
                watch.end(each.name, "diverged: its loss is not finite")
            else:
                keep(row)
                watch.end(each.name, summary(row))
    return diverged


def groups(planned: Sequence[Planned], width: int) -> list[list[Planned]]:
    """Return the runs in groups of one structure, at most ``width`` in each, in the order of the plan."""
    found: dict[str, list[Planned]] = {}
    for each in planned:
        found.setdefault(_structure(each), []).append(each)
    return [list(part) for group in found.values() for part in _parts(group, width)]


def _parts(group: Sequence[Planned], width: int) -> Iterator[Sequence[Planned]]:
    for start in range(0, len(group), width):
        yield group[start : start + width]


def _structure(planned: Planned) -> str:
    if planned.case.program not in SIDE_BY_SIDE or planned.options.binarisation == "dynamic":
        return planned.key  # alone: its data are drawn anew at each visit, or it is several trainings
    chosen = {k: v for k, v in planned.options.as_dict().items() if k not in _MAY_DIFFER}
    noisy = planned.options.noise > 0
    return json.dumps([planned.case.program, planned.case.train_size, noisy, chosen], sort_keys=True)


def _teller(group: Sequence[Planned], watch: Watch) -> Callable[[int, int], None]:
    def tell(done: int, epochs: int) -> None:
        for each in group:
            watch.epoch(each.name, done, epochs)

    return tell


def _alone(
    group: Sequence[Planned], folder: Path, device: torch.device, watch: Watch
) -> Iterator[tuple[Planned, Row | None]]:
    """Train the one run of a group."""
    try:
        yield group[0], perform(group[0], folder, device, Told(_teller(group, watch)))
    except DivergenceError:
        yield group[0], None


def _together(
    group: Sequence[Planned], folder: Path, device: torch.device, watch: Watch
) -> Iterator[tuple[Planned, Row | None]]:
    """Train the runs of a group at once; yield each with its row, None where it diverged."""
    told = Told(_teller(group, watch), lambda text: watch.note(group[0].name, text))
    settings = _settings(group, folder, device, told)
    pairs = [build(each, setting) for each, setting in zip(group, settings, strict=True)]
    checks = [setting.validation(pair) for setting, pair in zip(settings, pairs, strict=True)]
    options = group[0].options
    checkpoint = settings[0].checkpoint.with_name(f"{group[0].key}-{len(group)}.safetensors")
    began = time.perf_counter()

    def set_epoch(epoch: int) -> None:
        for setting in settings:
            setting.corruption.set_epoch(epoch)

    fitted = fit_many(
        [(pair.model, pair.guide) for pair in pairs],
        pairs[0].bound,
        [setting.data.train for setting in settings],
        seeds=[each.options.seed for each in group],
        learning_rate=[each.options.learning_rate for each in group],
        evaluate=lambda number: checks[number](),
        validate_every=options.validate_every,
        epochs=options.epochs,
        batch_size=options.batch_size,
        schedule=options.rate_schedule,
        clip_norm=options.clip_norm,
        transform=settings[0].data.visit,
        before_epoch=(set_epoch,),
        checkpoint=checkpoint,
        checkpoint_every=CHECKPOINT_EVERY,
        resume=checkpoint.exists(),
        progress=told,
        bfloat16=options.bfloat16,
    )
    share = (time.perf_counter() - began) / len(group)
    for each, setting, pair, one in zip(group, settings, pairs, fitted, strict=True):
        if one.history.best_epoch is None:
            yield each, None
            continue
        one.load_best()
        pyro.clear_param_store()  # all have parameters of the same names
        yield each, measured(each, folder, setting, pair, one.history, share)
    checkpoint.unlink(missing_ok=True)


def _settings(
    group: Sequence[Planned], folder: Path, device: torch.device, progress: Progress
) -> list[Setting]:
    """Return the settings of the runs; those of one seed share their data."""
    by_seed: dict[int, RunData] = {}
    found = []
    for each in group:
        setting = prepared(each, folder, device, progress)
        setting.data = by_seed.setdefault(each.options.seed, setting.data)
        found.append(setting)
    return found
