"""One trial: a training run with options that Optuna suggests, which may be pruned.

If the process of a trial ends, the next free process continues it from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from pyro_dvae.bounds import TraceDenoisingIWAE_ELBO
from pyro_dvae.errors import DivergenceError, InputError
from pyro_dvae.evaluation import evaluate_bound
from pyro_dvae.internals import trial_id
from pyro_dvae.jobs.folder import CONFIG
from pyro_dvae.jobs.options import Options, TrainRequest
from pyro_dvae.jobs.sweep.journal import open_study
from pyro_dvae.jobs.sweep.space import Dimension, changing_validation
from pyro_dvae.jobs.train import TrainingRun
from pyro_dvae.models import DVAE
from pyro_dvae.ownership import FileOwner, OccupiedError
from pyro_dvae.random_state import derived_seed
from pyro_dvae.training import Trainer
from pyro_dvae.training.callbacks import Callback, Running
from pyro_dvae.training.progress import Progress

OBJECTIVES = ("validation", "iwae")
REFUSED, DIVERGED, SAME_AS = "refused", "diverged", "same as"  # attributes of trials in the study
_BEGUN = "begun"
_PRUNED_FROM = 5  # finished trials
_REFUSED_AT_MOST = 5  # first trials, before the sweep ends


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep, which all its processes share.

    :param folder: absolute path of the shared folder.
    :param options: options of all trials.
    :param given: names of options that are given or searched; others may be chosen from the data.
    :param space: the search space.
    :param trials: total number of trials.
    :param objective: ``"validation"``, the best validation bound, or ``"iwae"``, the importance-weighted
        bound of the validation data with ``importance_samples`` draws (nats per observation).
    :param pruning: whether bad trials are ended early, if their validation bounds are comparable.
    """

    folder: Path
    options: Options
    given: frozenset[str]
    space: tuple[Dimension, ...]
    trials: int
    objective: str = "validation"
    pruning: bool = True

    @cached_property
    def differing(self) -> str | None:
        """The searched options by which trials differ in their validation bound, in words, or None."""
        return changing_validation(self.options, self.space)

    def study(self) -> optuna.Study:
        """Open the study, which all processes share through one file."""
        prunes = self.pruning and self.differing is None
        pruner = optuna.pruners.MedianPruner(_PRUNED_FROM) if prunes else optuna.pruners.NopPruner()
        return open_study(self.folder, pruner)

    def trial_folder(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def left(self, study: optuna.Study) -> int:
        """Return the number of trials to start; refused trials count only if another one has begun."""
        trials = study.get_trials(deepcopy=False)
        begun = _begun(trials)
        return self.trials - sum(begun or REFUSED not in each.user_attrs for each in trials)

    def all_refused(self, study: optuna.Study) -> bool:
        """Return whether the first trials were all refused, so that the others would be."""
        trials, number = study.get_trials(deepcopy=False), min(_REFUSED_AT_MOST, self.trials)
        refused = sum(REFUSED in each.user_attrs for each in trials[:number])
        running = any(each.state == TrialState.RUNNING for each in trials)
        return refused == number and not running and not _begun(trials)


def _begun(trials: Sequence[FrozenTrial]) -> bool:
    return any(_BEGUN in each.user_attrs for each in trials)


@dataclass(frozen=True)
class TrialSlot:
    """A slot for the next trial."""

    number: int

    @property
    def name(self) -> str:
        """The slot in words."""
        return f"slot {self.number}"

    @property
    def key(self) -> str:
        """The slot as a file name."""
        return str(self.number)


def perform(slot: TrialSlot, progress: Progress, *, sweep: Sweep) -> str:
    """Continue an abandoned trial, or start the next one; return its outcome in words.

    A trial with the options of a finished one has its value. One whose options the training refuses fails.

    :raises InputError: all first trials are refused, or a trial that has begun cannot continue.
    """
    study = sweep.study()
    with _claimed(sweep, study) as trial:
        if trial is None:
            return "no trial is left"
        options = replace(sweep.options, **{each.name: each.suggested(trial) for each in sweep.space})
        name = f"trial {trial.number} ({words(trial.params)})"
        progress.note(name)
        if (same := _finished_alike(study, trial)) is not None:
            trial.set_user_attr(SAME_AS, same.number)
            study.tell(trial, same.value)
            return f"{name}: {same.value:.2f} nats, as trial {same.number}"
        try:
            value = _trained(sweep, trial, options, progress)
        except DivergenceError as error:
            trial.set_user_attr(DIVERGED, str(error))
            study.tell(trial, state=TrialState.FAIL)
            return f"{name}: {error}"
        except OccupiedError:
            raise
        except InputError as error:
            if _BEGUN in trial.user_attrs:  # such as a full disk; the same command continues it
                raise InputError(f"{name}: {error}") from None
            trial.set_user_attr(REFUSED, str(error))
            study.tell(trial, state=TrialState.FAIL)
            if sweep.all_refused(study):
                raise InputError(f"all trials are refused; the last, {name}: {error}") from None
            return f"{name}: refused: {error}"
        if value is None:
            study.tell(trial, state=TrialState.PRUNED)
            return f"{name}: ended early"
        study.tell(trial, value)
        return f"{name}: {value:.2f} nats"


def _finished_alike(study: optuna.Study, trial: optuna.Trial) -> FrozenTrial | None:
    """Return the trained trial with the same options that has finished, or None."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    trained = (each for each in finished if SAME_AS not in each.user_attrs)
    return next((each for each in trained if each.params == trial.params), None)


def words(params: dict[str, Any]) -> str:
    """Return suggested options in words."""
    return ", ".join(
        f"{name.replace('_', '-')} {value:.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', '-')} {value}"
        for name, value in params.items()
    )


@contextmanager
def _claimed(sweep: Sweep, study: optuna.Study) -> Iterator[optuna.Trial | None]:
    """Yield a trial for this process: an abandoned one, else a new one, else None."""
    owner = FileOwner()
    with FileLock(sweep.folder / ".claim.lock"):
        trial = None
        for each in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            owner = _owner(sweep, each.number)
            try:
                owner.take()
            except OccupiedError:
                continue
            trial = optuna.Trial(study, trial_id(each))
            break
        if trial is None and sweep.left(study) > 0:
            trial = study.ask()
            owner = _owner(sweep, trial.number)
            owner.take()
        if trial is not None:
            # Trials that several processes start at once differ, and a single process is reproducible, also
            # if it was killed between two options of a trial.
            for dimension in sweep.space:
                seed = derived_seed(sweep.options.seed, "sweep", trial.number, dimension.name) % 2**32
                study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
                dimension.suggested(trial)
    try:
        yield trial
    finally:
        owner.release()


def _owner(sweep: Sweep, number: int) -> FileOwner:
    return FileOwner(output=sweep.trial_folder(number).with_suffix(".run"))  # only its lock is made


def run_of(sweep: Sweep, number: int, options: Options) -> TrainingRun:
    """Return the run of a trial, started or resumed."""
    folder = sweep.trial_folder(number)
    begun = (folder / CONFIG).exists()
    place = {"output": None, "resume": str(folder)} if begun else {"output": str(folder), "resume": None}
    return TrainingRun(TrainRequest(options, sweep.given, **place, quiet=True))


def trainer_of(run: TrainingRun, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Return the trainer of a trial's run."""
    dvae = DVAE(run.encoder, run.decoder, run.corruption)
    return run.trainer(dvae.model, dvae.guide, run.bound, callbacks)


class Pruning(Callback):
    """Reports every validated epoch to Optuna, and ends bad trials."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial, self.behind = trial, False

    def epoch(self, run: Running) -> None:
        bound = run.history.validation_bound[-1]
        had = self._trial.study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
        if bound is not None and run.epoch not in had:  # a resumed run may repeat epochs
            self._trial.report(bound, run.epoch)
        if run.epoch > run.epochs // 5 and self._trial.should_prune():
            self.behind = True
            run.stop("it is behind the other trials")

    def state_dict(self) -> dict[str, Any]:
        return {"behind": self.behind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.behind = state["behind"]


def _trained(sweep: Sweep, trial: optuna.Trial, options: Options, progress: Progress) -> float | None:
    """Train a trial to its end and return its objective (nats per observation); None if it is pruned."""
    run, pruning = run_of(sweep, trial.number, options), Pruning(trial)
    run.progress = progress
    try:
        trainer = trainer_of(run, [pruning])
        trial.set_user_attr(_BEGUN, True)
        for epoch in trainer:
            for x in epoch:
                trainer.step(x)
        best = trainer.history.best_validation_bound
        if pruning.behind or sweep.objective == "validation" or best is None:
            return None if pruning.behind else best
        trainer.load_best()
        bound = TraceDenoisingIWAE_ELBO(
            num_corruptions=1, num_particles=options.importance_samples, max_plate_nesting=1
        )
        seed = derived_seed(options.seed, "sweep", "iwae")
        rows = run.visit(run.validation)
        return evaluate_bound(trainer.model, trainer.guide, rows, loss=bound, seed=seed).mean
    finally:
        run.release()
