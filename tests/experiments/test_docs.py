"""docs/reproduction.md: its tables are those of the committed results."""

import re
from pathlib import Path

import pytest

from pyro_dvae.experiments import experiment, experiments, plan
from pyro_dvae.experiments.results import finished, read
from pyro_dvae.experiments.table import main_table, markdown

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproduction.md").read_text()
FOLDERS = sorted(path.parent for path in (ROOT / "docs" / "reproduction").glob("*/results.jsonl"))


def rows_in(folder):
    """The rows of a folder in the order of the plan; each must be of it."""
    declared, rows = experiment(folder.name), read(folder)
    epochs = {row["epochs"] for row in rows if row["key"]}
    planned = plan(declared, overrides={"bfloat16": True})
    for count in sorted(epochs):
        planned += plan(declared, epochs=count, overrides={"bfloat16": True})
    found = finished(rows, planned)
    assert found.keys() == {row["key"] for row in rows}
    keys = list(dict.fromkeys(each.key for each in planned if each.key in found))
    return declared, [found[key] for key in keys]


@pytest.mark.parametrize("name", sorted(experiments()))
def test_every_experiment_was_run_and_timed(name):
    assert ROOT / "docs" / "reproduction" / name in FOLDERS
    assert experiment(name).core_hours > 0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_results(folder):
    declared, rows = rows_in(folder)
    assert (folder / "table.md").read_text() == markdown(declared, rows)
    (block,) = re.findall(rf"<!-- {folder.name} -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert block == main_table(declared, rows)
    assert (folder / "picture.png").exists()
    assert f"reproduction/{folder.name}/picture.png" in PAGE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_no_path_of_a_machine_is_in_the_results(folder):
    text = (folder / "results.jsonl").read_text()
    assert "data_folder" not in text
    assert not re.search(r'"/\w+', text)
