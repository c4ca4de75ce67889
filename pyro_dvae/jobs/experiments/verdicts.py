"""Verdicts on the published claims from finished runs, and the page with all verdicts and tables.

A claim is a difference of two cells. With two or more seeds, its interval is the t-interval of the
differences by seed. With one seed, it is ±1.96 standard errors over the test data, as if the two cells used
independent data. It is then too wide for equal test data, and does not include the variation between seeds.

python -m pyro_dvae.jobs.experiments.verdicts docs/reproduction.md

updates the page, and the table and picture of every experiment, from the results in the folder named after
the page. A block of the page is enclosed in ``<!-- NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.special import stdtrit

from pyro_dvae.errors import DataError
from pyro_dvae.files import write_atomically
from pyro_dvae.jobs.experiments.catalogue import experiment, experiments, span
from pyro_dvae.jobs.experiments.declaration import Claim, Experiment, plan
from pyro_dvae.jobs.experiments.pictures import PICTURES
from pyro_dvae.jobs.experiments.results import RESULTS, Row, finished, read, unpacked
from pyro_dvae.jobs.experiments.running import TABLE
from pyro_dvae.jobs.experiments.table import MINUS, NONE, fewer, main_table, markdown, of_case, stand_in

HELD, NOT_HELD, UNTOLD = "held", "did not hold", "cannot be told"
_NORMAL = 1.96
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
    """

    claim: Claim
    published: float | None
    gain: float
    half_width: float
    seeds: int
    epochs: str

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


def verdict_table(found: Iterable[Verdict], digits: int = 2) -> str:
    """Return the verdicts as a Markdown table."""
    lines = [_line(_HEAD), "|" + "---|" * len(_HEAD)]
    for each in found:
        low, high = each.gain - each.half_width, each.gain + each.half_width
        ours = f"{_signed(each.gain, digits)} [{_signed(low, digits)}, {_signed(high, digits)}]"
        published = NONE if each.published is None else _signed(each.published, digits)
        one = ", one seed" if each.seeds == 1 else ""
        count = f"{2 * each.seeds} \N{MULTIPLICATION SIGN} {each.epochs}{one}"
        lines.append(_line((each.claim.text, published, ours, each.words, count)))
    return "\n".join(lines)


def _verdict(experiment: Experiment, claim: Claim, rows: Sequence[Row]) -> Verdict | None:
    cases = [experiment.cells[claim.better], experiment.cells[claim.worse]]
    name = claim.figure or experiment.table.figure
    better, worse = ({r["options"]["seed"]: r for r in of_case(case, rows)} for case in cases)
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
    return Verdict(claim, published, statistics.fmean(gains), half_width, len(seeds), epochs)


def _error(ours: Row, other: Row) -> float:
    """Return the standard error of a difference over the test rows, paired if their values were stored."""
    if "of_rows" in ours and "of_rows" in other:
        gains = unpacked(ours["of_rows"]) - unpacked(other["of_rows"])
        return float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return math.hypot(ours["standard_error"], other["standard_error"])


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


VERDICTS, UNFINISHED = "verdicts", "unfinished"


def committed(folder: Path) -> tuple[Experiment, list[Row]]:
    """Return the experiment of a folder and its rows in the order of the plan.

    :raises DataError: a row belongs to no run that the experiment can plan.
    """
    declared, rows = experiment(folder.name), read(folder)
    planned = []
    for count in [None, *sorted({row["options"]["epochs"] for row in rows})]:
        for rounded in (True, False):
            planned += plan(declared, epochs=count, overrides={"bfloat16": rounded})
    found = finished(rows, planned)
    if odd := sorted({row["key"] for row in rows} - found.keys()):
        raise DataError(f"output: the row {odd[0]} in {folder} is of no run of {declared.name}")
    return declared, [found[key] for key in dict.fromkeys(each.key for each in planned) if key in found]


def blocks(folder: Path) -> dict[str, str]:
    """Return all blocks of a page by name, from the experiments' folders in ``folder``."""
    own = {name: committed(folder / name) for name in experiments() if (folder / name / RESULTS).exists()}
    tables = {name: main_table(*each) for name, each in own.items()}
    lines = [
        verdict_table(verdicts(*each), max(each[0].table.digits, 1)).splitlines()
        for _, each in sorted(own.items(), key=lambda item: not item[0].startswith(("table", "figure")))
    ]
    found = "\n".join([*lines[0][:2], *(line for each in lines for line in each[2:])])
    return tables | {VERDICTS: found, UNFINISHED: unfinished({name: rows for name, (_, rows) in own.items()})}


def unfinished(rows: Mapping[str, Sequence[Row]]) -> str:
    """Return a sentence about declared experiments with unfinished runs; ``rows`` are by name."""
    missing = []
    for name, declared in experiments().items():
        of_name = rows.get(name, ())
        done = sum(not fewer(declared, declared.cells[row["row"], row["column"]], [row]) for row in of_name)
        planned = len(declared.cases) * declared.seeds
        if done < planned:
            missing.append(f"`{name}` ({done:,} of {planned:,} runs)")
    return f"Not finished: {', '.join(missing)}." if missing else "All declared runs are finished."


def filled(page: str, found: Mapping[str, str]) -> str:
    """Replace the blocks of a page by blocks with the same names."""
    return re.sub(
        r"<!-- (\S+) -->\n.*?\n<!-- end -->",
        lambda match: f"<!-- {match[1]} -->\n{found[match[1]]}\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


def update(path: Path) -> None:
    """Update a page, and the table and picture of every experiment with results."""
    folder = path.with_suffix("")
    for each in sorted(folder.glob(f"*/{RESULTS}")):
        declared, rows = committed(each.parent)
        write_atomically(each.parent / TABLE, markdown(declared, rows))
        PICTURES[declared.picture](declared, rows, each.parent)
    write_atomically(path, filled(path.read_text(encoding="utf-8"), blocks(folder)))


if __name__ == "__main__":
    update(Path(sys.argv[1]))
