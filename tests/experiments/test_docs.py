"""docs/reproduction.md: its tables and verdicts agree with the committed results."""

import re
import shutil
from pathlib import Path

import pytest

from pyro_dvae.jobs.experiments import experiment, experiments
from pyro_dvae.jobs.experiments.measures import MEASURES
from pyro_dvae.jobs.experiments.pages import blocks, committed, filled, markdown
from pyro_dvae.jobs.experiments.running import run
from pyro_dvae.jobs.experiments.table import spent

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reproduction.md").read_text()
FOLDERS = sorted(path.parent for path in (DOCS / "reproduction").glob("*/results.jsonl"))


@pytest.mark.parametrize("name", sorted(experiments()))
def test_every_experiment_has_a_time_and_a_section(name):
    assert experiment(name).core_hours > 0
    sections = PAGE.split("<!-- end -->")[-1]
    assert f"[{name}](reproduction/{name}/table.md)" in sections or f"`{name}` (not run)" in sections


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_tables_equal_those_of_the_results(folder):
    assert (folder / "table.md").read_text() == markdown(*committed(folder))
    assert (folder / "picture.png").exists()
    assert f"reproduction/{folder.name}/picture.png" in PAGE
    assert f"reproduction/{folder.name}/table.md" in PAGE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
@pytest.mark.parametrize("rounded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_command_makes_the_table_from_the_results(folder, rounded, tmp_path):
    (tmp_path / folder.name).mkdir()
    shutil.copy(folder / "results.jsonl", tmp_path / folder.name)
    usual = {"seeds": None, "epochs": None, "only": (), "data_folder": "data", "dataset": None}
    run(experiment(folder.name), tmp_path, **usual, bfloat16=rounded, train=False)
    assert (tmp_path / folder.name / "table.md").read_text() == (folder / "table.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_times_of_the_list_are_those_of_the_results(folder):
    declared, rows = committed(folder)
    complete = len(rows) == len(declared.cases) * declared.seeds
    if complete and {row["device"] for row in rows} == {"cpu"}:
        hours = sum(map(spent, rows)) / 3600
        assert 0.6 < hours / declared.core_hours < 1.6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_values_of_the_results_are_those_that_the_measures_declare(folder):
    for row in committed(folder)[1]:
        declared = {name for each in ("bound", *row["measures"]) for name in MEASURES[each].figures}
        assert row["figures"].keys() <= declared


def test_the_page_has_the_verdicts_on_the_sources_and_not_on_our_own_questions():
    page, tables = PAGE.split("<!-- verdicts -->")[1].split("<!-- end -->")[0], {}
    for folder in FOLDERS:
        declared, _ = committed(folder)
        tables[folder.name] = (folder / "table.md").read_text()
        for claim in declared.claims:
            named = [each.name for each in declared.claims if each.text == claim.text]
            on_page = f"[{folder.name}](reproduction/{folder.name}/table.md): {claim.text} |" in page
            in_table = any(f"| {each} |" in tables[folder.name] for each in named)
            assert on_page == (declared.of_source and claim.figure is None and in_table)
    assert "beats none" in page
    assert "amortisation gap" in tables["gaps"]


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
