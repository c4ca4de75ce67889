"""Every example and benchmark runs, small; one without an entry here fails."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIGITS = ["--dataset", "digits", "--epochs", "1", "--importance-samples", "2", "--quiet"]
SCRIPTS = {
    "examples/mnist_dvae.py": [*DIGITS, "--noise", "0.1"],
    "examples/learned_noise.py": ["--steps", "250", "--data", "100"],
    "benchmarks/bounds.py": ["--rounds", "1", "--steps", "1", "--repeats", "3"],
}


def run(name, tmp_path):
    command = [sys.executable, str(ROOT / name), *SCRIPTS[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_has_an_entry():
    found = {
        str(p.relative_to(ROOT)) for folder in ("examples", "benchmarks") for p in ROOT.glob(f"{folder}/*.py")
    }
    assert found == set(SCRIPTS)


def test_mnist_dvae(tmp_path):
    assert "test bound" in run("examples/mnist_dvae.py", tmp_path)


def test_learned_noise_falls_to_the_limit_under_one_bound_and_not_under_the_other(tmp_path):
    printed = run("examples/learned_noise.py", tmp_path)
    (dvae,) = re.findall(r"learned under L_dvae +0.500 -> ([\d.]+)", printed)
    (semi,) = re.findall(r"learned under L_50 +0.500 -> ([\d.]+)", printed)
    (best,) = re.findall(r"optimum of L_cvae +([\d.]+)", printed)
    assert float(dvae) < 0.06
    assert float(semi) == pytest.approx(float(best), rel=0.2)
    assert (tmp_path / "learned_noise.png").read_bytes()[:4] == b"\x89PNG"


def test_benchmark_of_the_bounds(tmp_path):
    printed = run("benchmarks/bounds.py", tmp_path)
    assert "TraceSemiImplicit_ELBO" in printed
    assert "VIMCO" in printed
    assert "nan" not in printed.lower()
