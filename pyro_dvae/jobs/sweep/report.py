"""The results of a sweep: a table, the importance of the options, and all trials in parallel coordinates."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from matplotlib.colors import Normalize
from optuna.trial import FrozenTrial, TrialState

from pyro_dvae.evaluation.estimates import plus_minus
from pyro_dvae.files import write_atomically
from pyro_dvae.jobs.folder import RESULTS, read_results
from pyro_dvae.jobs.sweep.space import Dimension
from pyro_dvae.jobs.sweep.trial import DIVERGED, REFUSED, SAME_AS, Sweep, words
from pyro_dvae.plots.figures import new_figure, write_figure

_SHOWN = 10
_INCHES = 0.09  # of a character
_COLUMNS = ("trial", "state", "objective", "validation_bound", "epochs_done", "seconds")  # no options
_WORDS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "ended early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def write(made: Sweep, study: optuna.Study) -> str:
    """Write ``trials.csv`` and the pictures into the sweep's folder; return the best trials in words."""
    trials = study.get_trials(deepcopy=False)
    complete = sorted(
        (each for each in trials if each.state == TrialState.COMPLETE), key=_value, reverse=True
    )
    files = [_table(made, trials)]
    if len(complete) > 1:
        files += _pictures(made, study, complete)
    counts = {words: sum(each.state == state for each in trials) for state, words in _WORDS.items()}
    said = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    lines = [f"{len(trials)} trials: {said}"]
    what = _bound(made)
    for each in complete[:_SHOWN]:
        lines.append(f"{_value(each):10.2f} nats  trial {each.number}: {words(each.params)}")
    if complete:
        lines[0] += f"; {what} of the best:"
    tested = sorted(int(path.parent.name) for path in made.folder.glob(f"trials/*/{RESULTS}"))
    for number in tested:
        found = (read_results(made.trial_folder(number)) or {}).get("test_bound")
        if found:
            shown = f"{plus_minus(found['mean'], found['standard_error'], 2)} nats"
            lines.append(f"trial {number} on the test data: {shown}, in {made.trial_folder(number)}")
    if len(tested) > 1:
        lines.append(f"the test data were used {len(tested)} times, as trials were added to a finished sweep")
    if not tested:
        running = any(each.state == TrialState.RUNNING for each in trials)
        if complete or running or made.left(study) > 0:
            lines.append("the test data are not used yet: trials are still to be finished")
        else:
            lines.append("the test data are not used: no trial finished; trials.csv has the reasons")
    return "\n".join([*lines, *(str(path) for path in files)])


def _bound(made: Sweep) -> str:
    """Return the objective in words."""
    return "validation bound" if made.objective == "validation" else "importance-weighted validation bound"


def _value(trial: FrozenTrial) -> float:
    return math.nan if trial.value is None else trial.value


def _table(made: Sweep, trials: Sequence[FrozenTrial]) -> Path:
    text = io.StringIO()
    names = [each.name for each in made.space]
    writer = csv.writer(text)
    writer.writerow([*_COLUMNS, *names, "reason"])
    for each in trials:
        seconds = "" if each.duration is None else round(each.duration.total_seconds(), 1)
        # Optuna gives a trial that ended early its last validation bound as its value.
        objective = each.value if each.state == TrialState.COMPLETE else ""
        bound = max(each.intermediate_values.values(), default="")
        done = max(each.intermediate_values, default=0)
        chosen = [each.params.get(name, "") for name in names]
        same = each.user_attrs.get(SAME_AS)
        failed = each.user_attrs.get(REFUSED, each.user_attrs.get(DIVERGED, ""))
        reason = failed if same is None else f"same options as trial {same}"
        state = _WORDS.get(each.state, "waiting")
        writer.writerow([each.number, state, objective, bound, done, seconds, *chosen, reason])
    write_atomically(made.folder / "trials.csv", text.getvalue())
    return made.folder / "trials.csv"


def _pictures(made: Sweep, study: optuna.Study, complete: Sequence[FrozenTrial]) -> list[Path]:
    drawn = [_parallel_coordinates(made.folder / "parallel_coordinates.png", made.space, complete)]
    if len(made.space) > 1 and len({each.value for each in complete}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        drawn.append(_importance(made.folder / "importance.png", found, _bound(made)))
    return drawn


def _importance(path: Path, found: dict[str, float], bound: str) -> Path:
    """Draw the share of the variance of ``bound`` that each option explains (fANOVA, Hutter et al. 2014)."""
    figure = new_figure(6.0, 1.0 + 0.4 * len(found), layout="constrained")
    axes = figure.add_subplot()
    names = sorted(found, key=lambda name: found[name])
    bars = axes.barh(
        [each.replace("_", "-") for each in names], [found[each] for each in names], color="#0072B2"
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"share of the variance of the {bound}")
    return write_figure(path, figure)


def _parallel_coordinates(path: Path, space: Sequence[Dimension], complete: Sequence[FrozenTrial]) -> Path:
    """Draw a line for each finished trial through its options and its bound; the best is the darkest."""
    columns: list[tuple[str, list[float], dict[float, str]]] = []
    for dimension in space:
        columns.append((dimension.name.replace("_", "-"), *_heights(dimension, complete)))
    values = [_value(each) for each in complete]
    width = max(values) - min(values)
    shares = [(value - min(values)) / width if width else 1.0 for value in values]
    digits = 2 if width == 0 else max(2, 1 - math.floor(math.log10(width)))  # enough for different ends
    ticks = {share: f"{value:.{digits}f}" for share, value in zip(shares, values, strict=True)}
    columns.append(("bound, nats", shares, {share: ticks[share] for share in (min(shares), max(shares))}))
    # Each axis has room for its labels at its right and for its name, which is below its middle.
    rooms = [_INCHES * max(map(len, (name, *labels.values()))) + 0.5 for name, _, labels in columns]
    places = [0.0, *itertools.accumulate(rooms)]
    figure = new_figure(places[-1] + 0.5, 4.0, layout="constrained")
    axes = figure.add_subplot()
    from matplotlib import colormaps

    for index in reversed(range(len(complete))):  # the best one last, on top
        heights = [heights[index] for _, heights, _ in columns]
        colour = colormaps["viridis_r"](shares[index])
        axes.plot(places[:-1], heights, color=colour, linewidth=2.5 if index == 0 else 1.0)
    style = {"textcoords": "offset points", "va": "center", "zorder": 3}
    style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for place, (_, _, labels) in zip(places[:-1], columns, strict=True):
        axes.axvline(place, color="black", linewidth=0.8)
        for height, label in labels.items():
            axes.annotate(label, (place, height), xytext=(5, 0), **style)
    axes.set_xticks(places[:-1], [name for name, _, _ in columns])
    axes.set_xlim(-0.2, places[-1])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return write_figure(path, figure)


def _heights(dimension: Dimension, trials: Sequence[FrozenTrial]) -> tuple[list[float], dict[float, str]]:
    """Return where each trial crosses an option's axis, from 0 to 1, and the labels of the axis."""
    given = [each.params[dimension.name] for each in trials]
    if dimension.choices:
        last = max(1, len(dimension.choices) - 1)
        places = {choice: index / last for index, choice in enumerate(dimension.choices)}
        return [places[value] for value in given], {height: str(choice) for choice, height in places.items()}
    move: Any = math.log if dimension.log else float
    assert dimension.low is not None
    assert dimension.high is not None
    scale = Normalize(move(dimension.low), move(dimension.high))
    labels = {0.0: f"{dimension.low:g}", 1.0: f"{dimension.high:g}"}
    return [float(scale(move(value))) for value in given], labels
