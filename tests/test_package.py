"""The package as users install it: its wheel outside of the checkout, and its metadata files."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import pyro_dvae

ROOT = Path(__file__).parents[1]
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def run(*command, cwd, **environment):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "pyro_dvae", folder / "pyro_dvae", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", folder, cwd=folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_the_wheel_holds_the_package_its_types_and_its_licence(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "pyro_dvae").rglob("*.py*") if path.is_file()}
    sources = {name for name in sources if not name.endswith(".pyc")} | {"pyro_dvae/py.typed"}
    assert {name for name in held if not name.startswith("pyro_dvae-")} == sources
    assert any(name.endswith("/LICENSE") for name in held)


def test_the_wheel_passes_the_check_of_the_index(wheel):
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", wheel, cwd=wheel.parent)


def test_the_installed_wheel_does_the_main_job(wheel, tmp_path):
    """In a new environment, which takes torch and the other packages from this one through a path file."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (site,) = (tmp_path / "venv").rglob("site-packages")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    code = "import pyro_dvae; print(pyro_dvae.__file__, pyro_dvae.__version__)"
    place, version = run(python, "-c", code, cwd=tmp_path).split()
    assert Path(place).is_relative_to(site)
    assert version == VERSION
    command = [python, "-c", "from pyro_dvae.cli import main; main()"]
    small = ["--epochs", "1", "--importance-samples", "2", "--width", "8", "--latent-size", "2"]
    printed = run(
        *command, "train", "--dataset", "digits", "--noise", "0.1", *small, "--output", "run", cwd=tmp_path
    )
    assert "test bound" in printed
    assert "digits, 1,257 / 270 / 270" in run(*command, "info", "run", cwd=tmp_path)


def test_the_version_is_stated_once_and_agrees_everywhere():
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()
    others = [path for path in (ROOT / "pyro_dvae").rglob("*.py") if f'"{VERSION}"' in path.read_text()]
    assert others == []
    assert pyro_dvae.__version__ in (VERSION, "unknown")


def test_the_workflows_call_the_script():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        commands = re.findall(r"^ +- run: (.*)$", path.read_text(), re.MULTILINE)
        assert [each.split()[0] for each in commands if each != "pip install uv"] == [".ci/run"]


def test_the_files_that_a_release_needs_are_there():
    for name in ("LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"):
        assert len((ROOT / name).read_text()) > 300, name
    assert "Apache License" in (ROOT / "LICENSE").read_text()
