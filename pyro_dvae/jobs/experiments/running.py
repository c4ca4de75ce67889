"""``pyro-dvae reproduce``: an experiment from its declaration to results, table and picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pyro_dvae.datasets.registry import check_name
from pyro_dvae.errors import DataError, DivergenceError
from pyro_dvae.files import require_writable, user_path, write_atomically
from pyro_dvae.jobs.data import digest_of_own, load_of
from pyro_dvae.jobs.executors import Executor, check, drive, opened
from pyro_dvae.jobs.executors.run_progress import RunsProgress
from pyro_dvae.jobs.experiments import results
from pyro_dvae.jobs.experiments.by_batch import groups, perform_groups
from pyro_dvae.jobs.experiments.checked import require_sound
from pyro_dvae.jobs.experiments.declaration import Experiment, Planned, alternatives, plan
from pyro_dvae.jobs.experiments.one_run import perform_elsewhere
from pyro_dvae.jobs.experiments.pages import TABLE, markdown
from pyro_dvae.jobs.experiments.pictures import PICTURES
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import pick_device
from pyro_dvae.jobs.run_request import OF_A_FILE
from pyro_dvae.machine import available_cores
from pyro_dvae.ownership import own

WIDTH_ON_ACCELERATOR = 40  # runs in one batched computation


@dataclass(frozen=True)
class Outcome:
    """The outcome of an experiment.

    :param rows: rows of the finished runs, in the order of the plan.
    :param missing: unfinished runs of the plan.
    :param diverged: runs that diverged now, by name.
    :param files: files written.
    """

    rows: list[results.Row]
    missing: list[Planned]
    diverged: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def reproduce(
    experiment: Experiment,
    planned: Sequence[Planned],
    folder: str | os.PathLike[str],
    *,
    device: str = "auto",
    jobs: int | None = None,
    keep_checkpoints: bool = False,
    quiet: bool = False,
    train: bool = True,
    executor: str | Executor = "local",
    executor_options: Mapping[str, Any] | None = None,
    shown: Sequence[Planned] = (),
) -> Outcome:
    """Perform the planned runs without results in ``folder``; write results, table and picture there.

    Results of equal runs of other experiments in sibling folders are reused.

    On a CPU the runs are parallel processes with one thread each; on an accelerator, runs with the same
    structure are one batched computation. With another executor each run is a job of its own.

    :param folder: gets ``results.jsonl``, ``table.md`` and ``picture.png``.
    :param device: as ``pyro-dvae train --device``.
    :param jobs: runs at a time; by default as many as there are cores, or 40 on an accelerator. With 1 they
        run in this process, with its threads. With another executor all are submitted at once by default.
    :param keep_checkpoints: leave the checkpoints of finished runs where they are.
    :param train: False writes table and picture of what is finished already, also while another process is
        performing the runs.
    :param executor: ``"local"``, ``"submitit"`` (Slurm), ``"dask"``, or an object whose ``submit(function,
        planned)`` returns something with ``done()`` and ``result()``; see :mod:`pyro_dvae.jobs.executors`.
        The workers must see ``folder`` and the data under the same paths.
    :param executor_options: of submitit or Dask.
    :param shown: the runs in table and picture, as far as they are finished, in order of preference for each
        case and seed; by default the planned ones.
    :raises InputError: parts of the experiment do not fit together, or another process is performing the
        runs of this folder.
    :raises DataError: the user's own data have changed since a run was finished.
    :raises ProcessLostError: the worker of a run was lost several times.
    :raises Stopped: Ctrl-C or SIGTERM came; the same call goes on.
    """
    require_sound(experiment)
    check(executor, executor_options or {})
    target = user_path("output", folder)
    require_writable(target / results.RESULTS)
    diverged: list[str] = []
    if train:
        lock = own("output", target)
        try:
            _require_same_data([*planned, *shown], target)
            where = _Placement(executor, executor_options or {}, device, jobs, quiet)
            diverged = _perform_missing(planned, target, where, keep_checkpoints)
        finally:
            lock.release()
    here, beside = _finished(target, [*planned, *shown])
    done = here | beside
    rows = [results.labelled(done[each.key], each) for each in planned if each.key in done]
    files = [target / results.RESULTS] if (target / results.RESULTS).exists() else []
    in_table = results.of_table(done.values(), shown or planned)
    if in_table:
        write_atomically(target / TABLE, markdown(experiment, in_table))
        files.append(target / TABLE)
        drawn = PICTURES[experiment.picture](experiment, in_table, target)
        files += [drawn] if drawn else []
    return Outcome(rows, [each for each in planned if each.key not in done], diverged, files)


def _finished(
    folder: Path, planned: Sequence[Planned]
) -> tuple[dict[str, results.Row], dict[str, results.Row]]:
    """Return the rows of the planned runs by their keys, from ``folder`` and its sibling folders."""
    here = results.finished(results.read(folder), planned)
    beside = results.of_others(folder, [each for each in planned if each.key not in here])
    return here, {row["key"]: row for row in beside}


@dataclass(frozen=True)
class _Placement:
    executor: str | Executor
    options: Mapping[str, Any]
    device: str
    jobs: int | None
    quiet: bool


def _perform_missing(
    planned: Sequence[Planned], folder: Path, where: _Placement, keep_checkpoints: bool
) -> list[str]:
    """Perform the runs without a row; return what diverged, by name."""
    here, beside = _finished(folder, planned)
    for row in beside.values():
        results.append(folder, row)

    def keep(row: results.Row) -> None:
        results.append(folder, row)
        if not keep_checkpoints:
            for part in (folder / "checkpoints").glob(f"*{row['key']}*"):  # including locks
                part.unlink()

    # Cells with the same options share a run.
    missing = list({each.key: each for each in planned if each.key not in here | beside}.values())
    return _perform(missing, folder, where, keep) if missing else []


def _perform(missing: Sequence[Planned], folder: Path, where: _Placement, keep: results.Keep) -> list[str]:
    watch = RunsProgress(len(missing), quiet=where.quiet)
    width = where.jobs
    try:
        if where.executor == "local":
            place = pick_device(where.device)
            on_cpu = place.type == "cpu"
            width = min(where.jobs or (available_cores() if on_cpu else WIDTH_ON_ACCELERATOR), len(missing))
            if width == 1 or not on_cpu:
                grouped = groups(missing, width) if width > 1 else [[each] for each in missing]
                return perform_groups(grouped, folder, place, watch, keep)
        return _perform_elsewhere(missing, folder, where, width, watch, keep)
    finally:
        watch.stop()


def _perform_elsewhere(
    missing: Sequence[Planned],
    folder: Path,
    where: _Placement,
    width: int | None,
    watch: RunsProgress,
    keep: results.Keep,
) -> list[str]:
    def kept(planned: Planned, row: results.Row) -> str:
        keep(row)
        return results.summary(row)

    shared = folder.absolute()
    with opened(where.executor, shared, where.jobs, where.options) as executor:
        _fetch(missing)
        function = partial(perform_elsewhere, folder=shared, device=where.device)
        return drive(executor, function, missing, shared, watch=watch, keep=kept, width=width)


def _data_of(options: Options) -> tuple[Any, ...]:
    """Return the options that decide which data are loaded."""
    return tuple(getattr(options, name) for name in ("dataset", "data_folder", *OF_A_FILE))


def _fetch(missing: Sequence[Planned]) -> None:
    """Load every data set once, so that downloads happen before several processes start."""
    for options in {_data_of(each.options): each.options for each in missing}.values():
        load_of(options)


def _require_same_data(planned: Sequence[Planned], folder: Path) -> None:
    """Refuse to go on with runs of the user's own data that have changed since a run was finished."""
    here, beside = _finished(folder, planned)
    done, digests = here | beside, dict[Any, str | None]()
    for each in planned:
        if (row := done.get(each.key)) is None:
            continue
        data = _data_of(each.options)
        if data not in digests:
            digests[data] = digest_of_own(each.options)
        if row["data"].get("digest") != digests[data]:
            raise DataError(
                f"data: {each.options.dataset} has changed since runs of "
                f"{row.get('run_by', row['experiment'])} were finished in {folder.parent}; restore it, or "
                "name another output folder"
            )


def run(
    experiment: Experiment,
    output: Path,
    *,
    seeds: int | None,
    epochs: int | None,
    only: tuple[str, ...],
    data_folder: str,
    dataset: str | None,
    bfloat16: bool,
    **settings: Any,
) -> str:
    """Perform the unfinished runs; return the table and the paths of all files."""
    overrides: dict[str, Any] = {"data_folder": data_folder, "bfloat16": bfloat16}
    if dataset is not None:
        check_name(dataset)
        overrides |= {name: getattr(Options, name) for name in OF_A_FILE} | {"dataset": dataset}
    planned = plan(experiment, seeds=seeds, epochs=epochs, only=only, overrides=overrides)
    # Runs that earlier commands finished stay in the table, also those of further seeds.
    folder = output / experiment.name
    most = max([experiment.seeds, seeds or 0, *(row["seed"] + 1 for row in results.read(folder))])
    shown = alternatives(experiment, seeds=most, epochs=(epochs,), overrides=overrides)
    outcome = reproduce(experiment, planned, folder, shown=shown, **settings)
    if outcome.diverged:
        raise DivergenceError(f"{len(outcome.diverged)} of the runs diverged: {'; '.join(outcome.diverged)}")
    return _closing(outcome, folder)


def _closing(outcome: Outcome, folder: Path) -> str:
    if folder / TABLE not in outcome.files:
        return f"nothing is finished in {folder}"
    parts = [(folder / TABLE).read_text(encoding="utf-8")]
    if outcome.missing:
        parts.append(f"{len(outcome.missing)} runs are not finished\n")
    parts.append("\n".join(str(path) for path in outcome.files))
    return "\n".join(parts)
