"""The content of a report about a run: results of training and evaluation in its folder, and a diagnosis."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro

from pyro_dvae.checkpoint import load_checkpoint
from pyro_dvae.datasets import is_own
from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.evaluation.importance.result import TOO_MANY
from pyro_dvae.files import read_json, user_path
from pyro_dvae.jobs import evaluate, evaluated, guess
from pyro_dvae.jobs import folder as run_folder
from pyro_dvae.jobs.evaluation_table import rows
from pyro_dvae.jobs.options import EvaluationOptions
from pyro_dvae.training import History
from pyro_dvae.training.run_state import read_training
from pyro_dvae.using import Diagnosis, diagnose
from pyro_dvae.using.saving import WEIGHTS

Figure = tuple[str, str, str]  # label, value, reliability
Note = tuple[str, str | None]  # text, command
_EACH = [(float, None)]
_EVALUATION = {
    "epoch": int,
    "settings": dict,
    "data": {"sizes": [int]},
    "log_likelihood": {
        "mean": (float, None),
        "sampling_error": (float, None),
        "standard_error_of_mean": (float, None),
        "share_unreliable": float,
        "pareto_k_threshold": (float, None),
        "per_datum": {"log_likelihood": _EACH, "standard_error": _EACH, "pareto_k": _EACH},
    },
}


@dataclass(frozen=True)
class ReportedRun:
    """One run of a report.

    :param folder: its folder.
    :param facts: model and data, as labels and texts.
    :param options: options of its training; {} for a user's own model.
    :param data: description of the data in ``config.json``; {} for a user's own model.
    :param history: history of the training; None before the end of the first epoch.
    :param results: content of ``results.json``; None if the run did not end.
    :param evaluation: content of ``evaluation.json``; None if there is none.
    :param rows: results of the evaluation as labels and texts.
    :param commands: commands that repeat the run and its evaluation.
    :param notes: notes about the reliability of results, each with a command.
    :param pictures: PNG files.
    :param diagnosis: diagnosis of the fit, or the reason why there is none.
    """

    folder: Path
    facts: list[tuple[str, str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None
    results: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    rows: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    diagnosis: Diagnosis | str | None = None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name


def read(folder: str | Path) -> ReportedRun:
    """Read a run folder, or a folder of ``fitted.save``.

    :raises InputError: it is neither, or a file in it was not written by this program.
    :raises CheckpointError: its checkpoint is damaged.
    """
    path = user_path("run", folder)
    if (path / WEIGHTS).exists() and not (path / run_folder.CONFIG).exists():
        return _saved(path)
    content = run_folder.describe(path)
    options = run_folder.options_of(content)
    history = None
    if content["progress"] is not None:
        history = History(**read_training(path / run_folder.CHECKPOINT, lambda name: False)[1]["history"])
    evaluation = _evaluation(path)
    figures = _figures(path, evaluation)
    own = options.dataset is not None and is_own(options.dataset)
    again = options.as_arguments(guess.BY_SIZE + (guess.BY_VALUES if own else ()))
    commands = [shlex.join(["pyro-dvae", "train", *again])]
    if evaluation is not None:
        settings = EvaluationOptions(**evaluation["settings"]).as_arguments()
        commands.append(shlex.join(["pyro-dvae", "evaluate", str(folder), *settings]))
    return ReportedRun(
        path,
        run_folder.facts(content),
        content["options"],
        content["data"],
        history,
        content["results"],
        evaluation,
        figures,
        commands,
        list(_notes(path, content, evaluation)),
        _pictures(path),
    )


def _evaluation(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = read_json("run", path / evaluate.FOLDER / evaluate.JSON, _EVALUATION)
    except FileNotFoundError:
        return None
    return found


def _figures(path: Path, evaluation: dict[str, Any] | None) -> list[tuple[str, str]]:
    if evaluation is None:
        return []
    try:
        EvaluationOptions(**evaluation["settings"])
        return rows(evaluation)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        place = path / evaluate.FOLDER / evaluate.JSON
        raise InputError(
            f"run: {place} was not written by this version ({error}); repeat pyro-dvae evaluate"
        ) from None


def _notes(path: Path, content: dict[str, Any], evaluation: dict[str, Any] | None) -> Iterator[Note]:
    progress, results = content["progress"], content["results"]
    resume = shlex.join(["pyro-dvae", "train", "--resume", str(path)])
    evaluate_it = shlex.join(["pyro-dvae", "evaluate", str(path)])
    if progress is None:
        yield "The run was stopped in its first epoch. Continue with:", resume
    elif progress["epochs_done"] < progress["epochs"] and not _ended_early(progress, results):
        done = f"{progress['epochs_done']} of {progress['epochs']}"
        yield f"The run was stopped after {done} epochs, so its results are not final. Continue with:", resume
    elif results is None:
        yield "The training is finished, but its evaluation is not. Continue with:", resume
    if wanted := content["data"]["substituted_for"]:
        name = content["data"]["name"]
        yield (
            f"{wanted} was not available: these results of {name} are not comparable with published ones.",
            None,
        )
    if progress is None:
        return
    if evaluation is None:
        yield "The run was not evaluated, so log p(x) and its reliability are unknown. Run:", evaluate_it
        return
    epoch, best = evaluation["epoch"], progress["best_epoch"] or progress["epochs_done"]
    if epoch != best and EvaluationOptions(**evaluation["settings"]).which == "best":
        yield f"The evaluation belongs to epoch {epoch}, but the run has continued. Repeat it:", evaluate_it


def _ended_early(progress: Mapping[str, Any], results: Mapping[str, Any] | None) -> bool:
    """Whether a callback, not Ctrl-C, ended the training before its last epoch."""
    return results is not None and results.get("epochs") == progress["epochs_done"]


def _saved(path: Path) -> ReportedRun:
    tensors, state = load_checkpoint(path / WEIGHTS)
    try:
        history = History(**state["history"])
        versions = ", ".join(f"{name} {version}" for name, version in state["versions"].items())
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"checkpoint {path / WEIGHTS}: not a saved model") from None
    of_rows = [value for name, value in tensors.items() if name.startswith("rows/")]
    count = sum(value.numel() for value in tensors.values()) - sum(row.numel() for row in of_rows)
    facts = [
        ("model", f"{path}, saved by fit(...).save(...)"),
        ("rows", ", ".join(str(list(row.shape[1:])) for row in of_rows)),
        ("progress", f"{len(history.epochs)} epochs, {sum(history.seconds):.0f} s"),
        ("weights", f"{count:,}, buffers included"),
        ("versions", versions),
    ]
    load = f"fitted = dv.load({str(path)!r}, model=model, guide=guide)"
    note = (
        "A saved model holds only weights and history. For results, load it in Python and call "
        "fitted.log_likelihood(x) and fitted.diagnose(x)."
    )
    return ReportedRun(
        path, facts, history=history, commands=[load], notes=[(note, None)], pictures=_pictures(path)
    )


def _pictures(path: Path) -> list[Path]:
    found = [each for place in (path, path / evaluate.FOLDER) for each in sorted(place.glob("*.png"))]
    return [each for each in found if each.is_file() and each.name[0] != "."]


def diagnosed(
    run: ReportedRun, *, data_folder: str | None = None, device: str = "auto", quiet: bool = False
) -> Diagnosis | str:
    """Return the diagnosis of a run on its test data, or the reason why there is none."""
    if run.history is None or not run.options:
        return "it needs the checkpoint of a run"
    try:
        one = evaluated.load_evaluated_run(run.folder, EvaluationOptions(), device, data_folder)
        with pyro.settings.context(module_local_params=True):
            return diagnose(
                one.dvae.model,
                one.dvae.guide,
                one.x,
                training=one.train_x(),
                seed=0,
                progress=False if quiet else None,
                max_plate_nesting=1,
            )
    except InputError as error:
        return str(error)


def figures(run: ReportedRun) -> list[Figure]:
    """Return the main results: label, value, and reliability."""
    found: list[Figure] = []
    for name, label, belief in (
        ("test_bound", "test bound", "a lower bound of log p(x); ± is the spread over the test rows"),
        ("trained_bound", "test bound, as trained", "a lower bound of log p(x), nearer to it"),
        ("importance_weighted_bound", "importance-weighted bound", "a lower bound, nearer still"),
    ):
        if figure := (run.results or {}).get(name):
            found.append((label, _plus_minus(figure["mean"], figure["standard_error"]), belief))
    if run.evaluation is not None:
        found += _evaluated(run.evaluation)
    return found


def _evaluated(evaluation: Mapping[str, Any]) -> Iterator[Figure]:
    estimate, data = evaluation["log_likelihood"], evaluation["data"]
    share, count = estimate["share_unreliable"], len(estimate["per_datum"]["log_likelihood"])
    of_rows = f"of the first {count:,} test rows" if count < data["sizes"][2] else "of all test rows"
    if estimate["mean"] is not None:
        belief = f"{of_rows}; ± is the error of the sampling"
        if spread := estimate["standard_error_of_mean"]:
            belief += f", the draw of the rows adds ± {spread:.2f}"
        belief += "" if share <= TOO_MANY else "; too low, because of the rows below"
        yield "log p(x)", _plus_minus(estimate["mean"], estimate["sampling_error"]), belief
    belief = "few enough to believe log p(x)" if share <= TOO_MANY else "too many: use evaluate --refine"
    yield "rows with a bad Pareto k", f"{100 * share:.1f} %", belief
    active, bits = evaluation.get("active_units"), evaluation.get("bits_per_dimension")
    if active:
        yield "active units", f"{active['count']} of {active['total']}", "latents that depend on the data"
    if bits and bits["mean"] is not None:
        value = _plus_minus(bits["mean"], bits["standard_error"])
        yield "bits per dimension", value, f"{of_rows}; lower is better; ± is the spread over them"
    quality = evaluation.get("sample_quality")
    if quality:
        own, real, independent = (quality[kind]["pairs"] for kind in ("samples", "real", "independent"))
        if own is not None:
            reached = f"training rows reach {two_digits(real)}, independent columns {two_digits(independent)}"
            yield "samples: pairs of columns", two_digits(own), f"1 is best; {reached}"


def _plus_minus(value: float, error: float | None) -> str:
    """Format a value with two digits of its error."""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.2f}"
    digits = min(6, max(2, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def two_digits(value: float | None) -> str:
    """Format a number with two digits, or a dash for None."""
    return "-" if value is None else f"{value:.2f}"
