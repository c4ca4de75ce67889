"""docs/reproduction.md: its tables and verdicts agree with the committed results."""

import re
from pathlib import Path

import pytest

from pyro_dvae.jobs.experiments import experiment, experiments
from pyro_dvae.jobs.experiments.table import markdown
from pyro_dvae.jobs.experiments.verdicts import blocks, committed, filled

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reproduction.md").read_text()
FOLDERS = sorted(path.parent for path in (DOCS / "reproduction").glob("*/results.jsonl"))


@pytest.mark.parametrize("name", sorted(experiments()))
def test_every_experiment_has_a_time_and_a_section(name):
    assert experiment(name).core_hours > 0
    assert f"pyro-dvae reproduce {name}" in PAGE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_tables_equal_those_of_the_results(folder):
    assert (folder / "table.md").read_text() == markdown(*committed(folder))
    assert (folder / "picture.png").exists()
    assert f"reproduction/{folder.name}/picture.png" in PAGE
    assert f"reproduction/{folder.name}/table.md" in PAGE


def test_the_page_is_up_to_date():
    found = blocks(DOCS / "reproduction")
    assert filled(PAGE, found) == PAGE
    assert f"<!-- verdicts -->\n{found['verdicts']}\n<!-- end -->" in PAGE


def test_the_verdicts_come_first():
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE)[0] == "Verdicts"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_no_path_of_a_machine_is_in_the_results(folder):
    text = re.sub(r'"of_rows": "[^"]*"', "", (folder / "results.jsonl").read_text())  # base64 has slashes
    assert "data_folder" not in text
    assert not re.search(r'"/\w+', text)
