"""A page about many experiments: its tables, and the verdicts over all, from the committed results.

    python -m pyro_dvae.experiments.page docs/reproduction.md

brings the page, and the table and picture of every experiment, up to date with the results in the folder
of the page's name. A block of the page stands between ``<!-- NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pyro_dvae.errors import DataError
from pyro_dvae.experiments.declaration import Experiment, plan
from pyro_dvae.experiments.pictures import PICTURES
from pyro_dvae.experiments.registry import experiment, experiments
from pyro_dvae.experiments.results import RESULTS, Row, finished, read
from pyro_dvae.experiments.running import TABLE
from pyro_dvae.experiments.table import main_table, markdown
from pyro_dvae.experiments.verdicts import verdict_table, verdicts
from pyro_dvae.files import write_atomically

VERDICTS = "verdicts"


def committed(folder: Path) -> tuple[Experiment, list[Row]]:
    """Return the experiment of a folder and its rows in the order of the plan.

    :raises DataError: a row is of no run that the experiment can plan.
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
    """Return every block that a page can have, by name, from the experiments' folders in ``folder``."""
    own = {name: committed(folder / name) for name in experiments() if (folder / name / RESULTS).exists()}
    tables = {name: main_table(*each) for name, each in own.items()}
    lines = [
        verdict_table(verdicts(*each), max(each[0].table.digits, 1)).splitlines()
        for _, each in sorted(own.items(), key=lambda item: not item[0].startswith(("table", "figure")))
    ]
    return tables | {VERDICTS: "\n".join([*lines[0][:2], *(line for each in lines for line in each[2:])])}


def filled(page: str, found: Mapping[str, str]) -> str:
    """Return the page with its blocks replaced by those of the same names."""
    return re.sub(
        r"<!-- (\S+) -->\n.*?\n<!-- end -->",
        lambda match: f"<!-- {match[1]} -->\n{found[match[1]]}\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


def update(path: Path) -> None:
    """Bring a page, and the table and picture of every experiment with results, up to date."""
    folder = path.with_suffix("")
    for each in sorted(folder.glob(f"*/{RESULTS}")):
        declared, rows = committed(each.parent)
        write_atomically(each.parent / TABLE, markdown(declared, rows))
        PICTURES[declared.picture](declared, rows, each.parent)
    write_atomically(path, filled(path.read_text(encoding="utf-8"), blocks(folder)))


if __name__ == "__main__":
    update(Path(sys.argv[1]))
