"""Every example and benchmark runs, small; one without an entry here fails."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_dvae as dv

ROOT = Path(__file__).parents[1]
DIGITS = ["--dataset", "digits", "--epochs", "1", "--importance-samples", "2", "--quiet"]
SCRIPTS = {
    "examples/mnist_dvae.py": [*DIGITS, "--noise", "0.1"],
    "examples/learned_noise.py": ["--steps", "250", "--data", "100"],
    "examples/heldout_likelihood.py": ["--steps", "400", "--data", "40", "--samples", "1000"],
    "benchmarks/bounds.py": ["--rounds", "1", "--steps", "1", "--repeats", "3"],
    "benchmarks/likelihood.py": ["--quick", "--threads", "1"],
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


def test_heldout_likelihood_is_the_exact_one_or_is_told_to_be_unreliable(tmp_path):
    printed = run("examples/heldout_likelihood.py", tmp_path)
    rows = dict(re.findall(r"^(\w.*?)  +([-+.\d].*%)$", printed, re.MULTILINE))
    found = {
        name: [float(value.strip("%")) for value in values.split()] for name, values in rows.items()
    }  # estimate, error, exact, off by, ESS, k, bad
    assert len(found) == 7
    for name in ("trained guide", "trained guide, widen=1.2", "trained guide, defensive=0.1"):
        _, error, _, off, _, k, bad = found[name]
        assert abs(off) < 5 * error < 0.05
        assert k < 0.5
        assert bad == 0
        assert f"{name}:" not in printed
    _, error, _, off, _, _, bad = found["half the scale"]
    assert off < -5 * error
    assert bad > 50
    assert re.search("^half the scale: .*Pareto k.*widen", printed, re.MULTILINE)
    _, error, _, off, _, _, bad = found["half the scale, widen=1.8"]
    assert abs(off) < 5 * error
    assert bad < 10
    assert (tmp_path / "heldout_likelihood" / "pareto_k.png").read_bytes()[:4] == b"\x89PNG"
    stored = dv.evaluation.read_netcdf(tmp_path / "heldout_likelihood" / "trained_guide.nc")
    assert stored["importance_sampling"]["pareto_k"].shape == (40,)


def test_benchmark_of_the_likelihood(tmp_path):
    printed = run("benchmarks/likelihood.py", tmp_path)
    for name in ("floor, oneDNN", "ours, every pass anew", "ours, recorded", "ours, compiled", "script"):
        assert name in printed
    means = [float(value) for value in re.findall(r" 200 +(-[\d.]+)$", printed, re.MULTILINE)]
    assert len(means) >= 5
    assert max(means) - min(means) < 5  # all estimate the same: nats, of some 590
    assert "nan" not in printed.lower()
