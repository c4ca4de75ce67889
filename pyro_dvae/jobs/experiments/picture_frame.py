"""What all pictures of experiments have: a title, a legend below the axes, and a file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_dvae import plots
from pyro_dvae.jobs.experiments.catalogue import span
from pyro_dvae.jobs.experiments.declaration import Experiment
from pyro_dvae.jobs.experiments.results import Row
from pyro_dvae.jobs.experiments.table import fewer, of_case, stand_in

NAME = "picture.png"
_CHARACTERS_PER_INCH, _CHARACTERS = 9.5, 100  # of a title


@dataclass(frozen=True)
class Picture:
    """A kind of picture.

    :param function: draws rows of an experiment into a folder; returns the file, or None without values.
    :param needs: name of the measure whose values or pictures it shows, besides the table's values.
    """

    function: Callable[[Experiment, Sequence[Row], Path], Path | None]
    needs: str | None = None

    def __call__(self, experiment: Experiment, rows: Sequence[Row], folder: Path) -> Path | None:
        """Draw the picture."""
        return self.function(experiment, rows, folder)


def legend_below(figure: Any, keys: tuple[Sequence[Any], Sequence[str]], most: int) -> None:
    """Put a legend of handles and labels below all axes, in as many columns as fit, at most ``most``."""
    inches = 0.6 + 0.075 * max(map(len, keys[1]))  # per column
    columns = max(1, min(most, int(figure.get_figwidth() / inches)))
    style = {"loc": "outside lower center", "frameon": False, "fontsize": plots.FONT_SIZE}
    figure.legend(*keys, ncols=columns, **style)


def title(experiment: Experiment, rows: Sequence[Row], heading: str | None = None) -> str:
    """Return the title of a picture, with any substitute data set and missing epochs.

    :param heading: title in place of the experiment's.
    """
    instead, given = stand_in(experiment, rows), heading or experiment.title
    parts = [given if instead is None else f"On {instead}, not the declared data: {given}"]
    short = [
        row["epochs"]
        for case in experiment.cases
        for row in of_case(case, rows)
        if fewer(experiment, case, [row])
    ]
    if short:
        parts.append(f"({len(short)} of {len(rows)} runs with fewer epochs than declared: {span(short)})")
    return " ".join(parts)


def written(
    figure: Any,
    experiment: Experiment,
    rows: Sequence[Row],
    folder: Path,
    name: str = NAME,
    heading: str | None = None,
) -> Path:
    """Write the figure with its title to the file ``name`` in ``folder``.

    :param heading: title in place of the experiment's.
    """
    width = min(int(_CHARACTERS_PER_INCH * figure.get_figwidth()), _CHARACTERS)
    text = textwrap.fill(title(experiment, rows, heading), width)
    figure.suptitle(text, fontsize=plots.FONT_SIZE + 2)
    return plots.write_figure(folder / name, figure)
