"""The pictures of experiments, from finished runs to a PNG file. A new kind needs one entry here."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_dvae import plots
from pyro_dvae.jobs.experiments.declaration import Case, Experiment
from pyro_dvae.jobs.experiments.picture_frame import NAME, Picture, legend_below, written
from pyro_dvae.jobs.experiments.results import Row
from pyro_dvae.jobs.experiments.table import MINUS, headings, number, of_case, stand_in, values

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
FEW_POINTS = 4  # of a curve, which are marked
WIDEST = 18.0  # inches, for a picture of several pictures
MARKERS = "os^Dv<>P"


def lines(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw a line for each row of the table over its columns: our values and, beside them, published ones."""
    columns, cells = experiment.columns, experiment.cells
    finished = {row["row"] for row in rows}
    published = any(case.published for case in experiment.cases) and stand_in(experiment, rows) is None
    width = 11.0 if published else 7.0
    figure = plots.new_figure(width, 4.6, layout="constrained")
    axes = figure.subplots(1, 2 if published else 1, sharey=True, squeeze=False)[0]
    for place, label in enumerate(label for label in experiment.rows if label in finished):
        cases = [cells.get((label, column)) for column in columns]
        style = {"color": COLOURS[place % 8], "marker": MARKERS[place % 8], "markersize": 5, "capsize": 3}
        ours = [_ours(experiment, case, rows) for case in cases]
        _points(axes[0], ours, label=label, **style)
        if published:
            theirs = [_theirs(case) for case in cases]
            _points(axes[1], theirs, label=label, **style)
    shown = headings(experiment, rows).values()
    for each, title in zip(axes, ("ours", "published"), strict=False):
        each.set_xticks(range(len(columns)), labels=[_wrapped(column) for column in shown])
        each.set_xlim(-0.2, len(columns) - 0.8)  # the same range in both, because one may have fewer columns
        each.set_xlabel(experiment.table.corner)
        each.grid(axis="y", color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
        bars = ", ± standard deviation" if _has_bars(each) else ""
        if published or bars:
            each.set_title(f"{title}{bars}", fontsize=plots.FONT_SIZE + 1)
    axes[0].set_ylabel(textwrap.fill(experiment.table.quantity, 36))
    if len((keys := axes[0].get_legend_handles_labels())[0]) > 1:
        legend_below(figure, keys, most=3)
    return written(figure, experiment, rows, folder)


def _wrapped(label: str) -> str:
    return textwrap.fill(label.replace(" %", "\N{NO-BREAK SPACE}%"), 14)


def curves(
    *, panel: str = "column", line: str = "row", log: bool = False
) -> Callable[[Experiment, Sequence[Row], Path], Path | None]:
    """Return a function that draws validation bounds against the epoch: means over the seeds.

    They have the sign of the table. A band is the standard deviation over the seeds, if there are several.

    :param panel: draw a panel for each ``column`` or ``row``.
    :param line: draw a line for each of the other of the two.
    :param log: use a logarithmic axis for the epochs.
    """

    def draw(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        names, sign = {"row": experiment.rows, "column": experiment.columns}, experiment.table.sign
        places = [name for name in names[panel] if any(row[panel] == name for row in rows)]
        titles = headings(experiment, rows)
        figure = plots.new_figure(max(7.0, 4.2 * len(places)), 4.6, layout="constrained")
        panels = figure.subplots(1, len(places), squeeze=False)[0]
        drawn: dict[str, Any] = {}
        for axes, place in zip(panels, places, strict=True):
            shown: list[float] = []
            for number_of, label in enumerate(names[line]):
                own = [row["curve"] for row in rows if (row[panel], row[line]) == (place, label)]
                if own:
                    epochs, means, spread = _over_seeds(own, sign)
                    marker = MARKERS[number_of % 8] if len(epochs) < FEW_POINTS else ""
                    style = {"color": COLOURS[number_of % 8], "linewidth": 1.4, "marker": marker}
                    (drawn[label],) = axes.plot(epochs, means, **style)
                    if len(own) > 1:
                        below, above = means - spread, means + spread
                        axes.fill_between(epochs, below, above, color=style["color"], alpha=0.2, linewidth=0)
                    shown += means[len(means) // 10 :].tolist()
            low, high = min(shown), max(shown)
            margin = 0.05 * (high - low) or 0.5
            axes.set_ylim(low - margin, high + margin)
            if log:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter(ScalarFormatter())
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("epoch")
            axes.set_title(titles.get(place, place), fontsize=plots.FONT_SIZE + 1)
            axes.grid(color="0.9", linewidth=0.8)
        panels[0].set_ylabel(f"{MINUS if sign < 0 else ''}bound of the validation data, nats")
        labels = [name for name in names[line] if name in drawn]
        legend_below(figure, ([drawn[name] for name in labels], labels), most=4)
        return written(figure, experiment, rows, folder)

    return draw


def _over_seeds(own: Sequence[Any], sign: int) -> tuple[Any, Any, Any]:
    """Return the common epochs of all curves, with mean and standard deviation of sign * validation bound."""
    import numpy as np

    curves_of = [dict(zip(each["epoch"], each["validation"], strict=True)) for each in own]
    epochs = sorted(set.intersection(*(set(each) for each in curves_of)))
    if not epochs:  # each run validated other epochs
        own, curves_of = own[:1], curves_of[:1]
        epochs = sorted(curves_of[0])
    bounds = sign * np.array([[each[epoch] for epoch in epochs] for each in curves_of])
    spread = bounds.std(axis=0, ddof=1) if len(own) > 1 else np.zeros(len(epochs))
    return epochs, bounds.mean(axis=0), spread


def heat_map(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw the table as a heat map with its numbers, and beside it the same for the training data."""
    shown = {"test data": experiment.table.figure, "training data": "training_bound"}
    shown = {title: name for title, name in shown.items() if any(name in row["figures"] for row in rows)}
    labels = [label for label in experiment.rows if any(row["row"] == label for row in rows)]
    columns = [label for label in experiment.columns if any(row["column"] == label for row in rows)]
    maps = [
        [[_mean(experiment, (row, column), rows, name) for column in columns] for row in labels]
        for name in shown.values()
    ]
    found = [value for each in maps for line in each for value in line if math.isfinite(value)]
    if not found:
        return None
    middle = (min(found) + max(found)) / 2
    size = (1.5 + len(maps) * (1.0 + 0.85 * len(columns)), 2.2 + 0.5 * len(labels))
    figure = plots.new_figure(*size, layout="constrained")
    places = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    titles = headings(experiment, rows)
    for axes, title, means in zip(places, shown, maps, strict=True):
        extremes = {"vmin": min(found), "vmax": max(found)}
        image = axes.imshow(means, cmap="viridis", aspect="auto", origin="lower", **extremes)
        for y, line in enumerate(means):
            for x, value in enumerate(line):
                if math.isfinite(value):
                    style = {"color": "white" if value < middle else "black", "fontsize": plots.FONT_SIZE - 1}
                    text = number(value, experiment.table.digits)
                    axes.text(x, y, text, ha="center", va="center", **style)
        axes.set_xticks(range(len(columns)), labels=[titles[name] for name in columns])
        axes.set_yticks(range(len(labels)), labels=labels)
        axes.set_xlabel(experiment.table.corner)
        if len(maps) > 1:
            axes.set_title(title, fontsize=plots.FONT_SIZE + 1)
    figure.colorbar(image, ax=places, label=experiment.table.quantity)
    return written(figure, experiment, rows, folder)


def lines_and(kind: str, heading: str) -> Callable[[Experiment, Sequence[Row], Path], Path | None]:
    """Return a function that draws :func:`lines`, and the pictures of a measure in a file with a heading."""
    beside = panels(kind, f"{kind}.png", heading)

    def draw(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
        beside(experiment, rows, folder)
        return lines(experiment, rows, folder)

    return draw


def panels(
    kind: str, name: str = NAME, heading: str | None = None
) -> Callable[[Experiment, Sequence[Row], Path], Path | None]:
    """Return a function that combines the pictures of a measure, for the first seed of each case."""

    def draw(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
        from matplotlib.image import imread

        found = []
        for case in experiment.cases:
            own = of_case(case, rows)
            path = folder / "pictures" / f"{own[0]['key']}-{kind}.png" if own else None
            if path is not None and path.exists():
                found.append((case, imread(path)))
        if not found:
            return None
        height, width = (max(image.shape[side] for _, image in found) / plots.DPI for side in (0, 1))
        # In their original size, but not wider than a page, so that labels are readable.
        across = min(len(found), 4, max(1, int(WIDEST / width)))
        down = math.ceil(len(found) / across)
        figure = plots.new_figure(width * across, (height + 0.3) * down + 0.4, layout="constrained")
        places = figure.subplots(down, across, squeeze=False).flatten()
        titles = headings(experiment, rows)
        for axes in places:
            axes.set_axis_off()
        for axes, (case, image) in zip(places, found, strict=False):
            axes.imshow(image, cmap="gray")
            number_of = f"{experiment.table.corner} " if case.column.isdigit() else ""
            axes.set_title(f"{case.row}, {number_of}{titles[case.column]}", fontsize=plots.FONT_SIZE + 1)
        return written(figure, experiment, rows, folder, name, heading)

    return draw


def gaps(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw the gaps of inference as stacked bars, test and training rows, a panel for each column."""
    columns = [name for name in experiment.columns if any(row["column"] == name for row in rows)]
    methods = [label for label in experiment.rows if any(row["row"] == label for row in rows)]
    width, labels, titles = 3.0 + 3.2 * len(columns), [""], headings(experiment, rows)
    figure = plots.new_figure(width, 1.8 + 0.45 * len(methods), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        found = {
            f"{label}, {part}": {key: _with_error(own, f"{part}_{name}") for key, name in _GAPS.items()}
            for label in methods
            if (own := of_case(experiment.cells.get((label, column)), rows))
            for part in ("test", "training")
        }
        plots.inference_gaps(found, ax=axes)
        axes.set_title(titles[column], fontsize=plots.FONT_SIZE + 1)
        axes.set_xlabel("nats per row, ± standard error")
        axes.get_legend().remove()
        axes.set_yticklabels([] if labels == [*found] else found)  # only once if they are equal
        labels = [*found]
    legend_below(figure, axes.get_legend_handles_labels(), most=3)
    return written(figure, experiment, rows, folder)


_GAPS = {
    "approximation gap, full": "approximation_gap_full",
    "approximation gap, diagonal": "approximation_gap",
    "amortisation gap, diagonal": "amortisation_gap",
}


def _with_error(own: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error; for one seed, the error over the rows."""
    found = values(own, name)
    if not found:  # not finite
        return math.nan, math.nan
    if len(found) == 1:
        return found[0], own[0]["figures"][name]["standard_error"]
    return statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found))


def _mean(experiment: Experiment, cell: tuple[str, str], rows: Sequence[Row], name: str) -> float:
    found = values(of_case(experiment.cells.get(cell), rows), name, experiment.table.sign)
    return statistics.fmean(found) if found else math.nan


def _ours(experiment: Experiment, case: Case | None, rows: Sequence[Row]) -> tuple[float, float]:
    table = experiment.table
    found = values(of_case(case, rows), table.figure, table.sign)
    if not found:
        return math.nan, math.nan
    return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else math.nan


def _theirs(case: Case | None) -> tuple[float, float]:
    if case is None or case.published is None:
        return math.nan, math.nan
    return case.published.mean, case.published.deviation or math.nan


def _points(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    seen = [(place, *point) for place, point in enumerate(points) if math.isfinite(point[0])]
    if seen:
        places, means, errors = zip(*seen, strict=True)
        axes.errorbar(places, means, errors, **style)


def _has_bars(axes: Any) -> bool:
    """Whether a point of the lines has an error; without one, no bar is drawn."""
    ends = (part for each in axes.containers for part in each.lines[1])
    return any(math.isfinite(value) for end in ends for value in end.get_ydata())


PICTURES: dict[str, Picture] = {
    "lines": Picture(lines),
    "lines-and-digits": Picture(
        lines_and("digits", "Test digits (above), and their reconstructions from the mean code"),
        needs="reconstruction",
    ),
    "curves": Picture(curves()),
    "log-curves-by-row": Picture(curves(panel="row", line="column", log=True)),
    "heat-map": Picture(heat_map),
    "gaps": Picture(gaps, needs="inference-gaps"),
    "manifolds": Picture(panels("manifold"), needs="manifold"),
    "samples": Picture(panels("samples"), needs="samples"),
}
