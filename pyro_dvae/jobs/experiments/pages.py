"""The pages of finished runs: ``table.md`` of an experiment, and the page with the verdicts and all tables.

python -m pyro_dvae.jobs.experiments.pages docs/reproduction.md

updates such a page, and the table and picture of every experiment, from the results in the folder named after
the page. A block of the page is enclosed in ``<!-- NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyro_dvae.errors import DataError
from pyro_dvae.files import write_atomically
from pyro_dvae.jobs.experiments.catalogue import experiment, experiments
from pyro_dvae.jobs.experiments.declaration import Experiment, alternatives
from pyro_dvae.jobs.experiments.pictures import PICTURES
from pyro_dvae.jobs.experiments.results import RESULTS, Row, of_table, read
from pyro_dvae.jobs.experiments.table import all_figures, fewer, main_table, stand_in
from pyro_dvae.jobs.experiments.verdicts import (
    HELD,
    NOT_HELD,
    UNTOLD,
    Verdict,
    by_single_seeds,
    over_settings,
    verdict_table,
    verdicts,
)

TABLE = "table.md"
VERDICTS, SINGLE_SEEDS, UNFINISHED = "verdicts", "single-seeds", "unfinished"


def markdown(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return the tables of the finished runs ``rows``, with their title, source, note and verdicts."""
    instead = stand_in(experiment, rows)
    parts = [
        f"{experiment.title}. Source: {experiment.source}.",
        *(
            [f"**Made on {instead} in place of the experiment's data, so not comparable.**"]
            if instead
            else []
        ),
        main_table(experiment, rows),
        *([experiment.note] if experiment.note else []),
    ]
    if found := verdicts(experiment, rows):
        parts.append(verdict_table((each.claims[0].name, each, _digits(experiment)) for each in found))
    if any(len(row["figures"]) > 1 for row in rows):
        parts.append(all_figures(experiment, rows))
    return "\n\n".join(parts) + "\n"


def _digits(experiment: Experiment) -> int:
    """Return the decimal places of its verdicts."""
    return max(experiment.table.digits, 1)


def committed(folder: Path) -> tuple[Experiment, list[Row]]:
    """Return the experiment of a folder and the rows of its table.

    Runs of the declared number of epochs are preferred, then longer ones, and runs in bfloat16.

    :raises DataError: a row belongs to no run that the experiment can plan.
    """
    declared, rows = experiment(folder.name), read(folder)
    seeds = max([declared.seeds, *(row["seed"] + 1 for row in rows)])
    counts = sorted({row["options"]["epochs"] for row in rows}, reverse=True)
    planned = alternatives(declared, seeds=seeds, epochs=(None, *counts), overrides={"bfloat16": True})
    if odd := sorted({row["key"] for row in rows} - {each.key for each in planned}):
        raise DataError(f"output: the row {odd[0]} in {folder} is of no run of {declared.name}")
    return declared, of_table(rows, planned)


def blocks(folder: Path) -> dict[str, str]:
    """Return all blocks of a page by name, from the experiments' folders in ``folder``."""
    found_in = {
        name: committed(folder / name) for name in experiments() if (folder / name / RESULTS).exists()
    }
    own = {name: each for name, each in found_in.items() if each[1]}
    tables = {name: main_table(*each) for name, each in own.items()}
    found = [
        (f"[{name}](reproduction/{name}/{TABLE}): {each.claims[0].text}", each, _digits(declared))
        for name, (declared, rows) in sorted(own.items(), key=lambda item: _place(item[0]))
        for each in (over_settings(declared, rows) if declared.of_source else ())
        if each.claims[0].figure is None
    ]
    rows = {name: each for name, (_, each) in own.items()}
    single = [pair for each in own.values() for pair in by_single_seeds(*each)]
    return tables | {
        VERDICTS: verdict_table(found),
        SINGLE_SEEDS: single_seeds(single),
        UNFINISHED: unfinished(rows),
    }


def single_seeds(found: Sequence[tuple[Verdict, Sequence[Verdict]]]) -> str:
    """Return a sentence on how often a single seed would decide what several seeds leave open."""
    decided = [verdict for verdict, singles in found for each in singles if each.words != UNTOLD]
    open_ = sum(verdict.words == UNTOLD for verdict in decided)
    return (
        f'In {len(found)} claims with several seeds, a single seed would say "{HELD}" or "{NOT_HELD}" '
        f"{len(decided)} times; in {open_} of these cases, all seeds together cannot tell."
    )


def _place(name: str) -> tuple[int, str]:
    """Return a sort key: the paper's tables by name, its figures, then all others in their order."""
    first = next((number for number, kind in enumerate(("table", "figure")) if name.startswith(kind)), 2)
    return first, name if first < 2 else ""


def unfinished(rows: Mapping[str, Sequence[Row]]) -> str:
    """Return a sentence about declared experiments with unfinished runs.

    :param rows: the rows of each experiment's table, by its name.
    """
    missing = []
    for name, declared in experiments().items():
        done = sum(
            row["seed"] < declared.seeds
            and not fewer(declared, declared.cells[row["row"], row["column"]], [row])
            for row in rows.get(name, ())
        )
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
        if not rows:
            continue
        write_atomically(each.parent / TABLE, markdown(declared, rows))
        PICTURES[declared.picture](declared, rows, each.parent)
    write_atomically(path, filled(path.read_text(encoding="utf-8"), blocks(folder)))


if __name__ == "__main__":
    update(Path(sys.argv[1]))
