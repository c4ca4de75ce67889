"""Measures and draws the growth of a step's time and memory with the sizes of the problem."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peers.contenders import CONTENDERS
from peers.problem import Problem
from peers.rounds import Found, measure

ROWS = 4_000
DRAWS = ((1, 1), (1, 5), (5, 10))  # M and K


@dataclass(frozen=True)
class Axis:
    """The size that a panel of the picture varies: label and values, and few values for ``--quick``."""

    label: str
    values: tuple[int, ...]
    quick: tuple[int, ...]


AXES = {
    "batch": Axis("rows per batch", (20, 100, 500, 2000), (20, 40)),
    "width": Axis("units of a hidden layer", (100, 400, 2000), (8, 16)),
    "draws": Axis("draws per row, M·K", tuple(m * k for m, k in DRAWS), (1, 5)),
    "rows": Axis("training rows", (4_000, 20_000, 100_000), (200, 400)),
}


def varied(problem: Problem, axis: str, value: int, files: dict[int, str]) -> tuple[Problem, int]:
    """Return the problem with one size changed, and its number of rows."""
    rows = min(files)
    if axis == "batch":
        return replace(problem, batch=value), rows
    if axis == "width":
        return replace(problem, hidden=(value,) * len(problem.hidden)), rows
    if axis == "draws":
        corruptions, particles = next(each for each in DRAWS if each[0] * each[1] == value)
        bound = "TraceDenoising_ELBO"
        return replace(problem, bound=bound, corruptions=corruptions, particles=particles), rows
    return replace(problem, data_file=files[value]), value


def measure_growth(
    names: list[str], problem: Problem, files: dict[int, str], quick: bool, rounds: int, **options: Any
) -> dict[str, dict[int, Found]]:
    """Return the records of the contenders (:func:`peers.rounds.measure`) by axis and value."""
    found: dict[str, dict[int, Found]] = {}
    for axis, each in AXES.items():
        found[axis] = {}
        for value in each.quick if quick else each.values:
            changed, rows = varied(problem, axis, value, files)
            print(f"{each.label}: {value:,}", file=sys.stderr, flush=True)
            steps = rows // changed.batch
            found[axis][value] = measure(
                names, changed, steps, rounds=rounds, warm_up=1, quiet=True, **options
            )
    return found


def curve(found: dict[int, Found], name: str, key: str) -> tuple[list[int], list[float]]:
    """Return the values at which a contender was measured, with its seconds per step or peak bytes."""
    at = [value for value, records in found.items() if records[name].get("seconds")]
    records = [found[value][name] for value in at]
    if key == "seconds":
        return at, [statistics.median(each["seconds"]) for each in records]
    return at, [each["peak_bytes"] for each in records]


def table(found: dict[str, dict[int, Found]], names: list[str]) -> str:
    """Return time and memory as text."""
    lines = [f"{'':<30}{'':>9}" + "".join(f"{CONTENDERS[name].label:>36}" for name in names)]
    for axis, values in found.items():
        for value, records in values.items():
            line = f"{AXES[axis].label:<30}{value:>9,}"
            for name in names:
                each = records[name]
                if each.get("seconds"):
                    milliseconds = 1e3 * statistics.median(each["seconds"])
                    line += f"{milliseconds:>20.2f} ms {each['peak_bytes'] / 1e6:>9,.0f} MB"
                else:
                    line += f"{'skipped' if 'skipped' in each else 'failed':>36}"
            lines.append(line)
    return "\n".join(lines)


def draw(found: dict[str, dict[int, Found]], names: list[str], title: str, file: Path) -> None:
    """Write the picture: for each axis a panel with the time of a step, and below it the peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    figure, panels = plt.subplots(2, len(found), figsize=(13, 6.2), sharey="row", layout="constrained")
    for column, (axis, values) in enumerate(found.items()):
        for row, (key, unit) in enumerate((("seconds", 1e-3), ("peak_bytes", 1e9))):
            panel = panels[row, column]
            for name in names:
                at, figures = curve(values, name, key)
                scaled = [each / unit for each in figures]
                panel.plot(at, scaled, marker="o", markersize=4, label=CONTENDERS[name].label)
            panel.set_xscale("log")
            panel.set_yscale("log" if row == 0 else "linear")
            panel.grid(True, which="both", alpha=0.25)
            panel.set_xticks(list(values), [f"{value:,}" for value in values], rotation=45)
            panel.xaxis.set_minor_locator(NullLocator())
            if row == 0:
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter("{x:g}")
                panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel(AXES[axis].label)
            if column == 0:
                panel.set_ylabel(("time of a step (ms)", "peak memory of the process (GB)")[row])
    panels[1, 0].set_ylim(bottom=0)  # last: it also fixes the upper end, for all panels of the row
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")
