"""Verdicts on the claims of an experiment, from finished runs.

A claim is a difference of two cells. With two or more seeds, its interval is the t-interval of the
differences by seed. With one seed, it covers the variation over the test data alone, not that between seeds:
1.96 standard errors of the differences by row, if the runs kept the values of the rows; otherwise as if the
two cells used independent data, which is too wide for equal data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
_HEAD = ("claim", "published", "ours [95 %]", "verdict", "runs \N{MULTIPLICATION SIGN} epochs")


@dataclass(frozen=True)
class Verdict:
    """The verdict of the runs on a claim.

    :param claim: the claim.
    :param published: the difference of the published means; None if there are none.
    :param gain: our difference, in the direction of the claim.
    :param half_width: half-width of its 95 % interval.
    :param seeds: number of common seeds of both cells.
    :param epochs: number of epochs of these runs, in words.
    :param unreliable: the largest share of rows in one of these runs whose estimate cannot be trusted.
    """

    claim: Claim
    published: float | None
    gain: float
    half_width: float
    seeds: int
    epochs: str
    unreliable: float = 0.0

    @property
    def words(self) -> str:
        """The verdict in words."""
        if self.gain - self.half_width > -self.claim.margin:
            return HELD
        return NOT_HELD if self.gain + self.half_width < -self.claim.margin else UNTOLD


def verdicts(experiment: Experiment, rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on each claim whose two cells share a seed; none on substitute data."""
    if stand_in(experiment, rows) is not None:
        return []
    found = (_verdict(experiment, claim, rows) for claim in experiment.claims)
    return [each for each in found if each is not None]


def by_single_seeds(experiment: Experiment, rows: Sequence[Row]) -> list[tuple[Verdict, list[Verdict]]]:
    """Return the verdicts from three or more seeds, each with those that its single seeds would give.

    Claims whose runs did not keep the values of the test rows are left out.
    """
    found = []
    for claim in experiment.claims if stand_in(experiment, rows) is None else ():
        verdict = _verdict(experiment, claim, rows)
        name = claim.figure or experiment.table.figure
        own = [row for case in (claim.better, claim.worse) for row in of_case(experiment.cells[case], rows)]
        kept = all("of_rows" in row["figures"].get(name, {}) for row in own)
        if verdict is None or verdict.seeds < 3 or not kept:
            continue
        seeds = sorted({row["seed"] for row in own})
        singles = (_verdict(experiment, claim, [row for row in own if row["seed"] == seed]) for seed in seeds)
        found.append((verdict, [each for each in singles if each is not None]))
    return found


def verdict_table(found: Iterable[tuple[Verdict, int]]) -> str:
    """Return the verdicts, each with a number of decimal places, as a Markdown table with a note."""
    lines = header(_HEAD)
    for each, digits in found:
        low, high = each.gain - each.half_width, each.gain + each.half_width
        ours = f"{_signed(each.gain, digits)} [{_signed(low, digits)}, {_signed(high, digits)}]"
        published = NONE if each.published is None else _signed(each.published, digits)
        words = each.words + (" (one seed)" if each.seeds == 1 else "")
        words += _MARK if each.unreliable > _TRUSTED else ""
        count = f"{2 * each.seeds} \N{MULTIPLICATION SIGN} {each.epochs}"
        lines.append(line((each.claim.text, published, ours, words, count)))
    if any(_MARK in each for each in lines):
        lines += ["", f"{_MARK.strip()} {_UNTRUSTED}"]
    return "\n".join(lines)


def _verdict(experiment: Experiment, claim: Claim, rows: Sequence[Row]) -> Verdict | None:
    cases = [experiment.cells[claim.better], experiment.cells[claim.worse]]
    name = claim.figure or experiment.table.figure
    better, worse = (
        {row["options"]["seed"]: row for row in of_case(case, rows) if values([row], name)} for case in cases
    )
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    sign = -1 if claim.lower else 1
    pairs = [(better[seed]["figures"][name], worse[seed]["figures"][name]) for seed in seeds]
    gains = [sign * (ours["mean"] - other["mean"]) for ours, other in pairs]
    if len(gains) > 1:
        quantile = float(stdtrit(len(gains) - 1, 0.975))
        half_width = quantile * statistics.stdev(gains) / math.sqrt(len(gains))
    else:
        half_width = _NORMAL * _error(*pairs[0])
    used = [side[seed] for side in (better, worse) for seed in seeds]
    source = [case.published for case in cases]
    published = None
    if claim.figure is None and source[0] and source[1]:
        published = sign * experiment.table.sign * (source[0].mean - source[1].mean)
    epochs = span(row["epochs"] for row in used)
    unreliable = max(shares_unreliable(used, name), default=0.0)
    return Verdict(claim, published, statistics.fmean(gains), half_width, len(seeds), epochs, unreliable)


def _error(ours: Row, other: Row) -> float:
    """Return the standard error of a difference over the test rows, paired if their values were stored."""
    if "of_rows" in ours and "of_rows" in other:
        gains = unpacked(ours["of_rows"]) - unpacked(other["of_rows"])
        return float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return math.hypot(ours["standard_error"], other["standard_error"])


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)
