"""The commands of the README and the docs, run as they are written."""

import re
from pathlib import Path

import pytest

import pyro_dvae
from pyro_dvae.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_commands_of_the_readme():
    commands = re.findall(r"^    (pip install -e .*)$", README, flags=re.MULTILINE)
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text()
    for command in commands:
        assert command in script


def test_ci_runs_every_command_of_a_run():
    script = (ROOT / ".ci" / "run").read_text()
    named = set(re.findall(r"pyro-dvae (\w+) RUN", README))
    assert named == {"evaluate", "info", "report", "sample"}
    for command in named:
        assert f'pyro-dvae {command} "$work/run"' in script


@pytest.mark.parametrize("page", ["README.md", "docs/command.md"])
def test_every_option_that_a_page_names_exists(page):
    options = [each for command in main.commands.values() for each in command.params]
    known = {flag for each in options for flag in (*each.opts, *each.secondary_opts)}
    others = {"--help", "--nproc-per-node", "--index-url"}
    named = set(re.findall(r"--[a-z][a-z0-9-]+", (ROOT / page).read_text())) - others
    assert named
    assert named <= known


PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    text = (ROOT / page).read_text()
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith("http")]
    for target in targets:
        assert ((ROOT / page).parent / target).exists(), target


def test_public_names_are_importable_and_documented():
    for name in pyro_dvae.__all__:
        assert getattr(pyro_dvae, name).__doc__, name
