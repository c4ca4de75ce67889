"""A sweep from its options to the best trial, by any number of processes that share a folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import TrialState

from pyro_dvae import checks
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.files import read_json, require_writable, user_path, write_atomically
from pyro_dvae.jobs.data import digest_of_own
from pyro_dvae.jobs.effects import require_effect
from pyro_dvae.jobs.executors import Executor, check, drive, opened
from pyro_dvae.jobs.executors.run_progress import ProgressRelay, RunsProgress
from pyro_dvae.jobs.folder import CHECKPOINT, CONFIG, read_results
from pyro_dvae.jobs.guess import left_to_data
from pyro_dvae.jobs.options import Options, TrainRequest
from pyro_dvae.jobs.parts import build_bound, build_corruption, check_training
from pyro_dvae.jobs.run_request import absolute
from pyro_dvae.jobs.sweep import report
from pyro_dvae.jobs.sweep.space import Dimension, changing_validation, parsed
from pyro_dvae.jobs.sweep.trial import OBJECTIVES, SAME_AS, Sweep, TrialSlot, perform, run_of, trainer_of
from pyro_dvae.machine import available_cores
from pyro_dvae.text import to_stderr

DESCRIPTION = "sweep.json"
_DIGEST = "digest"  # in the description, no option


def sweep(
    request: TrainRequest,
    search: Sequence[str],
    *,
    trials: int,
    typed: frozenset[str] = frozenset(),
    objective: str = "validation",
    pruning: bool = True,
    jobs: int | None = None,
    executor: str | Executor = "local",
    executor_options: Mapping[str, Any] | None = None,
) -> str:
    """Do the remaining trials; after the last one, evaluate the best on the test data; return the report.

    :param request: options of all trials, with the folder of the sweep as output.
    :param search: texts for :func:`~pyro_dvae.jobs.sweep.space.parsed`.
    :param trials: total number of trials of all processes.
    :param typed: options with a given value, which cannot be searched and must have an effect.
    :param jobs: trials at a time; by default one per core, or all with another executor. With 1, trials run
        in this process, with its threads.
    :raises InputError: an option is refused, or all trials, or the folder has another sweep or a run.
    :raises DataError: the user's own data cannot be read, or have changed since the sweep began.
    :raises Stopped: after Ctrl-C or SIGTERM; the same call continues.
    """
    check(executor, executor_options or {})
    space = parsed(search, typed)
    require_effect(request.options, typed | {each.name for each in space}, {e.name: e.ends for e in space})
    made = _checked(request, space, trials, objective, pruning)
    with FileLock(made.folder / ".claim.lock"):
        _same_sweep(made)
    if pruning and made.differing is not None and not request.quiet:
        reason = f"their validation bounds are not comparable ({made.differing})"
        to_stderr(f"no trial ends early, because {reason}")
    study = made.study()
    abandoned = len(study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))
    slots = [TrialSlot(number) for number in range(1, 1 + max(0, made.left(study)) + abandoned)]
    if slots:
        try:
            _perform(made, slots, jobs, executor, executor_options or {}, request.quiet)
        except InputError:
            report.write(made, made.study())  # with the reasons of refused trials
            raise
    study = made.study()  # with the trials of all processes
    running = len(study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))
    if running == 0 and made.left(study) <= 0:
        _test_the_best(made, study)
    return report.write(made, study)


def _checked(
    request: TrainRequest, space: tuple[Dimension, ...], trials: int, objective: str, pruning: bool
) -> Sweep:
    if request.output is None:
        raise InputError("output: expected the folder of the sweep, got none")
    options = absolute(request.options)
    checks.known("objective", objective, OBJECTIVES)
    if objective == "iwae" and not options.importance_samples:
        raise InputError("importance_samples: the objective iwae needs 1 or more, got 0")
    for dimension in space:
        for value in dimension.ends:
            one = replace(options, **{dimension.name: value})
            try:
                check_training(one)
                build_corruption(one)
                build_bound(one)
            except InputError as error:
                raise InputError(f"search: {error}") from None
    differing = changing_validation(options, space)
    if objective == "validation" and differing is not None:
        raise InputError(
            f"search: trials would differ in their validation bound ({differing}), which is then not "
            "comparable; use --objective iwae"
        )
    folder = user_path("output", request.output).absolute()
    if (folder / CONFIG).exists():
        raise InputError(f"output: {folder} has a training run, not a sweep; name another folder")
    require_writable(folder / DESCRIPTION)
    given = request.given | {each.name for each in space}
    return Sweep(folder, options, given, space, checks.count("trials", trials), objective, pruning)


def _same_sweep(made: Sweep) -> None:
    """Write the settings of the sweep, or refuse a folder with another one; more trials are allowed."""
    options = {k: v for k, v in made.options.as_dict().items() if k not in ("data_folder", "device")}
    options |= dict.fromkeys(left_to_data(made.options, made.given), "chosen from the data")
    space = [[each.name, each.low, each.high, each.log, list(each.choices)] for each in made.space]
    content = {"search": space, "objective": made.objective, "pruning": made.pruning, **options}
    content[_DIGEST] = digest_of_own(made.options)
    path = made.folder / DESCRIPTION
    try:
        there = read_json("output", path, {})
    except FileNotFoundError:
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return
    usual = Options().as_dict()  # for options that are newer than the sweep
    if content[_DIGEST] is not None and there.get(_DIGEST) is not None:
        del content["dataset"]  # a file of the user's own may have moved; its values count
    for name, value in content.items():
        had = there.get(name, usual.get(name))
        if had != value and name == _DIGEST:
            raise DataError(
                f"data: {made.options.dataset} has changed since the sweep in {made.folder} began, or is "
                "another file; restore it, or name another folder"
            )
        if had != value:
            raise InputError(
                f"output: the sweep in {made.folder} has {name} {had!r}, got {value!r}; name another folder"
            )


def _perform(
    made: Sweep,
    slots: Sequence[TrialSlot],
    jobs: int | None,
    executor: str | Executor,
    options: Mapping[str, Any],
    quiet: bool,
) -> None:
    watch = RunsProgress(len(slots), quiet=quiet)
    if executor == "local":
        jobs = min(jobs or available_cores(), len(slots))
    shared = made.folder / "drivers" / uuid.uuid4().hex  # one for each process
    try:
        if executor == "local" and jobs == 1:
            for slot in slots:
                watch.start(slot.name)
                watch.end(slot.name, perform(slot, _relay(slot, watch), sweep=made))
            return
        function = partial(perform, sweep=made)
        with opened(executor, shared, jobs, options) as workers:
            drive(workers, function, slots, shared, watch=watch, keep=lambda slot, text: text, width=jobs)
    finally:
        watch.stop()
        for place in (shared, shared.parent):
            with suppress(OSError):  # submitit's logs stay
                place.rmdir()


def _relay(slot: TrialSlot, watch: RunsProgress) -> ProgressRelay:
    return ProgressRelay(partial(watch.epoch, slot.name), partial(watch.note, slot.name))


def _test_the_best(made: Sweep, study: optuna.Study) -> None:
    """Evaluate the best trial on the test data, unless it was evaluated before."""
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        return
    best = study.best_trial
    number = best.user_attrs.get(SAME_AS, best.number)
    folder = made.trial_folder(number)
    with FileLock(made.folder / ".best.lock"):
        if read_results(folder) is not None:
            return
        if not (folder / CHECKPOINT).exists():
            raise InputError(
                f"output: the best trial has no checkpoint in {folder}; restore this folder, or name another "
                "one for a new sweep"
            )
        run = run_of(made, number, replace(made.options, **best.params))
        try:
            run.finish(trainer_of(run))
        finally:
            run.release()
