"""The documentation's site, which CI builds, contains every page and every public name."""

import importlib
import re
from pathlib import Path

import jupytext
import pytest

import pyro_dvae as dv

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDERS = (DOCS, DOCS / "api", DOCS / "notebooks")
PAGES = [str(path.relative_to(DOCS)) for folder in FOLDERS for path in folder.glob("*.md")]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_in_the_navigation(page):
    assert len(re.findall(rf"^ +- (?:.*: )?{page}$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)) == 1


def test_every_public_name_is_on_a_page_of_the_interface():
    shown = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: pyro_dvae\.(.*)$", page.read_text(), re.MULTILINE):
            found = importlib.import_module(f"pyro_dvae.{name}") if name != "jobs.loading.load" else None
            shown |= {"load"} if found is None else set(getattr(found, "__all__", vars(found)))
    modules = {name for name in dv.__all__ if type(getattr(dv, name)).__name__ == "module"}
    assert set(dv.__all__) - modules <= shown


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("notebooks/")])
def test_a_notebook_has_the_code_of_its_page_in_cells(page):
    notebook = jupytext.read(DOCS / page)
    cells = [cell.source + "\n" for cell in notebook.cells if cell.cell_type == "code"]
    assert cells == re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert len(cells) >= 4
