"""What the README and the docs tell a user to type, run as they say it."""

import re
from pathlib import Path

import pytest

import pyro_dvae
from pyro_dvae.cli import main
from pyro_dvae.jobs.options import Options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 6
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert 0 < scope["loss"] < 64 * 100
    assert scope["tighter"].mean > scope["bound"].mean
    assert scope["found"].mean > scope["tighter"].mean
    printed = capsys.readouterr().out
    assert "Pareto k" in printed
    assert "another proposal" in printed


def test_the_python_code_of_the_page_on_using_a_model_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/using_a_model.md").read_text()
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "using_a_model.md", "exec"), scope)
    assert scope["images"].shape == scope["test"].shape
    assert scope["new"].shape == (16, 64)
    errors = [(scope["test"] - scope[name]).square().mean() for name in ("cleaned", "noisy")]
    assert errors[0] < errors[1] * 2
    assert "codes of" in capsys.readouterr().out


def test_ci_runs_the_commands_of_the_readme():
    commands = re.findall(r"^    (pip install .*)$", README, flags=re.MULTILINE)
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text()
    for command in commands:
        assert command in script


def test_ci_runs_every_command_of_a_run():
    script = (ROOT / ".ci" / "run").read_text()
    named = set(re.findall(r"pyro-dvae (\w+) RUN", README))
    assert named == {"evaluate", "info", "sample"}
    for command in named:
        assert f'pyro-dvae {command} "$work/run"' in script


def test_every_option_the_readme_names_exists():
    fields = Options.__dataclass_fields__
    known = {"--" + name.replace("_", "-") for name in fields}
    known |= {flag for each in fields.values() for flag in (each.metadata["flag"] or "").split("/")}
    known |= {flag for each in main.commands["reproduce"].params for flag in each.opts}
    named = set(re.findall(r"--[a-z][a-z0-9-]+", README)) - {"--resume", "--help", "--nproc-per-node"}
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
