"""Verdicts on the claims of an experiment, from finished runs.

A claim is a difference of two cells, or its mean over several settings. With two or more seeds, its interval
is the t-interval of the differences by seed. With one seed, it covers the variation over the test data alone,
not that between seeds: 1.96 standard errors of the differences by row, if the runs kept the values of the
rows; otherwise as if the two cells used independent data, which is too wide for equal data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from pyro_dvae.jobs.experiments.catalogue import span
from pyro_dvae.jobs.experiments.declaration import Claim, Experiment
from pyro_dvae.jobs.experiments.results import Row, unpacked
from pyro_dvae.jobs.experiments.table import (
    MINUS,
    NONE,
    header,
    line,
    of_case,
    shares_unreliable,
    stand_in,
    values,
)

HELD, NOT_HELD, UNTOLD = "held", "did not hold", "cannot be told"
_NORMAL = 1.96
_TRUSTED = 0.05  # share of unreliable rows up to which an estimate of log p(x) is not marked
_MARK = " \N{DOUBLE DAGGER}"
_UNTRUSTED = (
    "In one of the runs, the estimate of log p(x) cannot be trusted for more than 5 % of the images "
    "(their Pareto k is too large)."
)
_FIGURES = ("published", "ours [95 %]", "verdict", "runs \N{MULTIPLICATION SIGN} epochs")


@dataclass(frozen=True)
class Verdict:
    """The verdict of the runs on a claim.

    :param claims: the claim, or the same claim in several settings, of which this is about the mean.
    :param published: the difference of the published means; None if there are none.
    :param gain: our difference, in the direction of the claim.
    :param half_width: half-width of its 95 % interval.
    :param seeds: number of seeds that all cells have in common.
    :param epochs: number of epochs of these runs, in words.
    :param unreliable: the largest share of rows in one of these runs whose estimate cannot be trusted.
    """

    claims: tuple[Claim, ...]
    published: float | None
    gain: float
    half_width: float
    seeds: int
    epochs: str
    unreliable: float = 0.0

    @property
    def words(self) -> str:
        """The verdict in words."""
        margin = self.claims[0].margin
        if self.gain - self.half_width > -margin:
            return HELD
        return NOT_HELD if self.gain + self.half_width < -margin else UNTOLD


def verdicts(experiment: Experiment, rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on each claim in each setting with a common seed; none on substitute data."""
    found = (_verdict(experiment, [claim], rows) for claim in _claims(experiment, rows))
    return [each for each in found if each is not None]


def over_settings(experiment: Experiment, rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on each claim's mean over those of its settings that have a common seed."""
    by_text: dict[str, list[Claim]] = {}
    for each in verdicts(experiment, rows):
        by_text.setdefault(each.claims[0].text, []).extend(each.claims)
    found = (_verdict(experiment, claims, rows) for claims in by_text.values())
    return [each for each in found if each is not None]


def by_single_seeds(experiment: Experiment, rows: Sequence[Row]) -> list[tuple[Verdict, list[Verdict]]]:
    """Return the verdicts from three or more seeds, each with those that its single seeds would give.

    Claims whose runs did not keep the values of the test rows are left out.
    """
    found = []
    for claim in _claims(experiment, rows):
        verdict = _verdict(experiment, [claim], rows)
        name = claim.figure or experiment.table.figure
        own = [row for case in (claim.better, claim.worse) for row in of_case(experiment.cells[case], rows)]
        kept = all("of_rows" in row["figures"].get(name, {}) for row in own)
        if verdict is None or verdict.seeds < 3 or not kept:
            continue
        seeds = sorted({row["seed"] for row in own})
        singles = (
            _verdict(experiment, [claim], [row for row in own if row["seed"] == seed]) for seed in seeds
        )
        found.append((verdict, [each for each in singles if each is not None]))
    return found


def verdict_table(found: Iterable[tuple[str, Verdict, int]]) -> str:
    """Return named verdicts, each with a number of decimal places, as a Markdown table with a note."""
    lines = header(["claim", *_FIGURES])
    lines += [line((name, *_cells(verdict, digits))) for name, verdict, digits in found]
    note = ["", f"{_MARK.strip()} {_UNTRUSTED}"] if any(_MARK in each for each in lines) else []
    return "\n".join([*lines, *note])


def _cells(verdict: Verdict, digits: int) -> tuple[str, ...]:
    """Return the cells of a table's line under the headings ``_FIGURES``."""
    low, high = verdict.gain - verdict.half_width, verdict.gain + verdict.half_width
    ours = f"{_signed(verdict.gain, digits)} [{_signed(low, digits)}, {_signed(high, digits)}]"
    published = NONE if verdict.published is None else _signed(verdict.published, digits)
    words = verdict.words + (" (one seed)" if verdict.seeds == 1 else "")
    words += _MARK if verdict.unreliable > _TRUSTED else ""
    cells = {case for each in verdict.claims for case in (each.better, each.worse)}
    runs = len(cells) * verdict.seeds
    return published, ours, words, f"{runs} \N{MULTIPLICATION SIGN} {verdict.epochs}"


def _claims(experiment: Experiment, rows: Sequence[Row]) -> tuple[Claim, ...]:
    return experiment.claims if stand_in(experiment, rows) is None else ()


def _verdict(experiment: Experiment, claims: Sequence[Claim], rows: Sequence[Row]) -> Verdict | None:
    """Return the verdict on the mean over ``claims``; None if their cells have no seed in common."""
    name = claims[0].figure or experiment.table.figure
    cells = [experiment.cells[each] for claim in claims for each in (claim.better, claim.worse)]
    by_seed = [
        {row["options"]["seed"]: row for row in of_case(case, rows) if values([row], name)} for case in cells
    ]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    if not seeds:
        return None
    sign = -1 if claims[0].lower else 1
    # One list for each seed: the value of each cell, the better one before the worse one.
    figures = [[each[seed]["figures"][name] for each in by_seed] for seed in seeds]
    gains = [sign * _mean_gain([each["mean"] for each in of_seed]) for of_seed in figures]
    if len(gains) > 1:
        quantile = float(stdtrit(len(gains) - 1, 0.975))
        half_width = quantile * statistics.stdev(gains) / math.sqrt(len(gains))
    else:
        half_width = _NORMAL * _error(figures[0])
    published = None
    sources = [case.published.mean for case in cells if case.published]
    if claims[0].figure is None and len(sources) == len(cells):
        published = sign * experiment.table.sign * _mean_gain(sources)
    used = [each[seed] for each in by_seed for seed in seeds]
    epochs = span(row["epochs"] for row in used)
    unreliable = max(shares_unreliable(used, name), default=0.0)
    return Verdict(
        tuple(claims), published, statistics.fmean(gains), half_width, len(seeds), epochs, unreliable
    )


def _mean_gain(cells: Sequence[Any]) -> Any:
    """Return the mean difference of alternate cells: the first minus the second, and so on."""
    gains = [better - worse for better, worse in zip(cells[::2], cells[1::2], strict=True)]
    return sum(gains) / len(gains)


def _error(figures: Sequence[Mapping[str, Any]]) -> float:
    """Return the standard error of the mean difference over the test rows, paired if they were stored.

    Without them, the errors of the settings add up, as if the settings had the same rows.
    """
    if all("of_rows" in each for each in figures):
        of_rows = [unpacked(each["of_rows"]) for each in figures]
        if len({len(each) for each in of_rows}) == 1:
            gains = _mean_gain(of_rows)
            return float(gains.std(ddof=1)) / math.sqrt(len(gains))
    errors = [each["standard_error"] for each in figures]
    return statistics.fmean(map(math.hypot, errors[::2], errors[1::2]))


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)
