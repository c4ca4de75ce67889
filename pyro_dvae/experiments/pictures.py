"""The pictures of experiments: from the finished runs to a PNG file. A new kind is one entry here."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_dvae import plots
from pyro_dvae.experiments.declaration import Case, Experiment
from pyro_dvae.experiments.results import Row
from pyro_dvae.experiments.table import fewer, number, of_case, stand_in, values
from pyro_dvae.experiments.times import span

NAME = "picture.png"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^Dv<>P"


def lines(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw a line for each row of the table over its columns: ours, and beside it what was published."""
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
    for each, title in zip(axes, ("ours", "published"), strict=False):
        each.set_xticks(range(len(columns)), labels=[_wrapped(column) for column in columns])
        each.set_xlim(-0.2, len(columns) - 0.8)  # the same in both, where one has fewer columns measured
        each.set_xlabel(experiment.table.corner)
        each.grid(axis="y", color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
        if published:
            each.set_title(title, fontsize=plots.FONT_SIZE + 1)
    axes[0].set_ylabel(experiment.table.quantity)
    handles = axes[0].get_legend_handles_labels()
    if len(handles[0]) > 1:
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, fontsize=plots.FONT_SIZE)
    return _written(figure, experiment, rows, folder)


def _wrapped(label: str) -> str:
    return textwrap.fill(label.replace(" %", "\N{NO-BREAK SPACE}%"), 14)


def curves(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw the validation bounds of the first seeds against the epoch, in one panel for each column."""
    columns = [c for c in experiment.columns if any(row["column"] == c for row in rows)]
    figure = plots.new_figure(max(7.0, 4.2 * len(columns)), 4.6, layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        shown: list[float] = []
        for place, label in enumerate(experiment.rows):
            own = [row for row in rows if (row["row"], row["column"]) == (label, column)]
            if own:
                first = min(own, key=lambda row: row["seed"])
                bounds = first["curve"]["validation"]
                axes.plot(
                    first["curve"]["epoch"], bounds, color=COLOURS[place % 8], label=label, linewidth=1.4
                )
                shown += bounds[len(bounds) // 10 :]
        low, high = min(shown), max(shown)
        margin = 0.05 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel("epoch")
        axes.set_title(column, fontsize=plots.FONT_SIZE + 1)
        axes.grid(color="0.9", linewidth=0.8)
    panels[0].set_ylabel("validation bound, nats per datum")
    drawn = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(drawn.values()),
        list(drawn),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=plots.FONT_SIZE,
    )
    return _written(figure, experiment, rows, folder)


def heat_map(experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw the table as a map of colours, with its numbers."""
    labels, columns, cases = experiment.rows, experiment.columns, experiment.cells
    means = [[_ours(experiment, cases.get((row, column)), rows)[0] for column in columns] for row in labels]
    figure = plots.new_figure(2.5 + 0.85 * len(columns), 2.2 + 0.5 * len(labels), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(means, cmap="viridis", aspect="auto", origin="lower")
    found = [value for line in means for value in line if math.isfinite(value)]
    middle = (min(found) + max(found)) / 2
    for y, line in enumerate(means):
        for x, value in enumerate(line):
            if math.isfinite(value):
                colour = "white" if value < middle else "black"
                text = number(value, experiment.table.digits)
                axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=plots.FONT_SIZE - 1)
    axes.set_xticks(range(len(columns)), labels=columns)
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.set_xlabel(experiment.table.corner)
    figure.colorbar(image, ax=axes, label=experiment.table.quantity)
    return _written(figure, experiment, rows, folder)


def panels(kind: str) -> Callable[[Experiment, Sequence[Row], Path], Path | None]:
    """Return a function that puts the pictures of a measure side by side, of the first seed of each case."""

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
        across = min(len(found), 4)
        down = math.ceil(len(found) / across)
        height, width = (max(image.shape[side] for _, image in found) / plots.DPI for side in (0, 1))
        # At the size they were drawn, so that their labels can be read.
        figure = plots.new_figure(width * across, (height + 0.3) * down + 0.4, layout="constrained")
        places = figure.subplots(down, across, squeeze=False).flatten()
        for axes in places:
            axes.set_axis_off()
        for axes, (case, image) in zip(places, found, strict=False):
            axes.imshow(image, cmap="gray")
            axes.set_title(case.name, fontsize=plots.FONT_SIZE + 1)
        return _written(figure, experiment, rows, folder)

    return draw


def _ours(experiment: Experiment, case: Case | None, rows: Sequence[Row]) -> tuple[float, float]:
    table = experiment.table
    found = values(of_case(case, rows), table.figure, table.sign)
    if not found:
        return math.nan, 0.0
    return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0


def _theirs(case: Case | None) -> tuple[float, float]:
    if case is None or case.published is None:
        return math.nan, 0.0
    return case.published.mean, case.published.deviation or 0.0


def _points(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    seen = [(place, *point) for place, point in enumerate(points) if math.isfinite(point[0])]
    if seen:
        places, means, errors = zip(*seen, strict=True)
        axes.errorbar(places, means, errors, **style)


def title(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return the title of a picture; it names a data set that stands in, and fewer epochs."""
    instead = stand_in(experiment, rows)
    parts = [
        experiment.title if instead is None else f"Of {instead}, not the declared data: {experiment.title}"
    ]
    short = [
        row["epochs"]
        for case in experiment.cases
        for row in of_case(case, rows)
        if fewer(experiment, case, [row])
    ]
    if short:
        parts.append(f"({len(short)} of {len(rows)} runs with fewer epochs than declared: {span(short)})")
    return " ".join(parts)


def _written(figure: Any, experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path:
    figure.suptitle(textwrap.fill(title(experiment, rows), 90), fontsize=plots.FONT_SIZE + 2)
    return plots.write_figure(folder / NAME, figure)


PICTURES: dict[str, Callable[[Experiment, Sequence[Row], Path], Path | None]] = {
    "lines": lines,
    "curves": curves,
    "heat-map": heat_map,
    "manifolds": panels("manifold"),
    "samples": panels("samples"),
}
