"""Every example and benchmark runs, small; one without an entry here fails."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyro_dvae as dv

ROOT = Path(__file__).parents[1]
DIGITS = ["--dataset", "digits", "--epochs", "1", "--importance-samples", "2", "--quiet"]
CONTENDERS = ("numpyro", "pythae", "stock", "eager", "compiled", "fit-many", "products")
STEPS = [f"--only={name}" for name in CONTENDERS]
SCRIPTS = {
    "examples/mnist_dvae.py": [*DIGITS, "--noise", "0.1"],
    "examples/frey_face_dvae.py": [*DIGITS, "--noise", "0.05"],
    "examples/vae_derivation.py": ["--repeats", "5000"],
    "examples/marginal_guide.py": ["--steps", "40"],
    "examples/swap_guides.py": ["--steps", "20", "--samples", "20", "--test", "20", "--width", "20"],
    "examples/draw.py": ["--dataset", "digits", "--steps", "3", "--epochs", "1", "--hidden-size", "8"],
    "examples/learned_noise.py": ["--steps", "250", "--data", "100"],
    "examples/heldout_likelihood.py": ["--steps", "400", "--data", "40", "--samples", "1000"],
    "examples/count_data.py": ["--rows", "200", "--columns", "60", "--epochs", "40"],
    "examples/mixed_table.py": ["--epochs", "20"],
    "examples/colour_patches.py": [
        *("--train", "200", "--test", "40", "--epochs", "1", "--channels", "4", "--latent-size", "8")
    ],
    "benchmarks/counts.py": ["--quick", "--output", "counts.jsonl"],
    "examples/conditional_vae.py": [
        *("--dataset", "digits", "--epochs", "2", "--test", "20", "--samples", "20", "--width", "20")
    ],
    "examples/semi_supervised.py": [
        *("--dataset", "digits", "--epochs", "2", "--labelled", "200", "--width", "20")
    ],
    "benchmarks/data.py": ["--quick"],
    "examples/impute_table.py": ["--draws", "20"],
    "benchmarks/anomaly.py": ["tables", "--seeds", "1"],
    "benchmarks/imputation.py": ["--tables", "tables", "--masks", "1"],
    "benchmarks/bounds.py": ["--rounds", "1", "--steps", "1", "--repeats", "3"],
    "benchmarks/likelihood.py": ["--quick", "--threads", "1"],
    "benchmarks/step.py": ["--quick", "--threads", "1", "--memory", "--output", "step.json", *STEPS],
    "benchmarks/end_to_end.py": ["--quick", "--threads", "1"],
    "benchmarks/curves.py": ["curves.png", "--quick", "--threads", "1", "--only", "torch"],
    "benchmarks/gpu.py": ["--device", "cpu", "--quick"],
    "benchmarks/parallel.py": ["--quick"],
    "benchmarks/parts.py": ["--quick"],
    "benchmarks/preparation.py": ["--quick"],
    "benchmarks/refinement.py": ["--quick"],
    "benchmarks/verification.py": ["--steps", "20"],
    "benchmarks/imports.py": ["--rounds", "1"],
    "benchmarks/side_by_side.py": ["--quick"],
    "benchmarks/systems.py": ["--quick", "--epochs", "1", "--output", "systems.jsonl"],
}


def run(name, tmp_path):
    command = [sys.executable, str(ROOT / name), *SCRIPTS[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def inside(tmp_path, monkeypatch, capsys):
    """Run a script in this process, which has loaded torch; benchmarks that measure need a new process."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend((ROOT / name).parent)
        monkeypatch.setattr(sys, "argv", [name, *(arguments or SCRIPTS[name])])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return out

    return run


def test_every_script_has_an_entry():
    found = {
        str(p.relative_to(ROOT)) for folder in ("examples", "benchmarks") for p in ROOT.glob(f"{folder}/*.py")
    }
    assert found == set(SCRIPTS)


@pytest.mark.slow  # tests/test_command_line.py runs it too, and checks all its files
def test_mnist_dvae(tmp_path):
    assert "test bound" in run("examples/mnist_dvae.py", tmp_path)


def test_impute_table(inside, tmp_path):
    printed = inside("examples/impute_table.py")
    errors = {
        name: float(re.search(rf"{name} +rms error ([\d.]+)", printed)[1])
        for name in ("column means", "one Gaussian", "fit_table")
    }
    assert errors["fit_table"] < errors["one Gaussian"] < errors["column means"]
    assert (tmp_path / "imputed.png").exists()


def test_impute_table_of_a_file_with_gaps_and_a_constant_column(inside, tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 1)).repeat(4, 1)
    rows[:, 3] = 7.5
    rows[::4, 1] = np.nan
    np.savetxt(tmp_path / "gaps.csv", rows, delimiter=",", header="a,b,c,d", comments="")
    printed = inside("examples/impute_table.py", "--table", "gaps.csv", "--missing", "0.3", "--draws", "20")
    assert float(re.search(r"fit_table +rms error ([\d.]+)", printed)[1]) < 0.5
    assert int(re.search(r"of (\d+) hidden cells", printed)[1]) <= 0.4 * (~np.isnan(rows)).sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["benchmarks/anomaly.py", "benchmarks/imputation.py"])
def test_benchmarks_of_tables_resume_where_they_stopped(name, tmp_path):
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    (tmp_path / "tables").mkdir()
    x = generator.normal(size=(60, 3)) @ generator.normal(size=(3, 4))
    y = (np.arange(60) < 6).astype(int)
    x[y == 1] += 4
    np.savez(tmp_path / "tables" / "small.npz", X=x, y=y)
    printed = run(name, tmp_path)
    header, _, row = [line for line in printed.splitlines() if line.startswith("|")][:3]
    assert "kNN" in header
    assert "ours" in header
    assert "small" in row
    assert row.count("|") == header.count("|")
    file = tmp_path / f"{Path(name).stem}.jsonl"
    before = file.read_text()
    assert run(name, tmp_path) == printed
    assert file.read_text() == before


@pytest.mark.slow
def test_benchmark_of_a_gpu_runs_on_a_cpu(tmp_path):
    assert re.search(r"fit_many, +1 models +[\d.]+", run("benchmarks/gpu.py", tmp_path))


@pytest.mark.slow
def test_benchmark_of_the_verification(tmp_path):
    assert "%" in run("benchmarks/verification.py", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curves", "parallel", "parts", "preparation", "refinement"])
def test_benchmarks_of_speed(name, tmp_path):
    assert re.search(r"\d\.\d", run(f"benchmarks/{name}.py", tmp_path))


def test_draw(inside, tmp_path):
    assert re.search(r"test bound on clean input: -[\d.]+ ± [\d.]+ nats", inside("examples/draw.py"))
    assert (tmp_path / "draw.png").read_bytes()[:4] == b"\x89PNG"


def test_frey_face_dvae_is_of_grey_pixels_with_gaussian_noise(inside, tmp_path):
    assert "test bound" in inside("examples/frey_face_dvae.py")
    (config,) = tmp_path.glob("runs/*/config.json")
    options = json.loads(config.read_text())["options"]
    assert options["likelihood"] == "gaussian-per-pixel"
    assert options["noise_kind"] == "gaussian"
    assert options["binarisation"] == "none"


def test_vae_derivation_measures_the_exact_variances(inside, tmp_path):
    printed = inside("examples/vae_derivation.py")
    rows = re.findall(r"^[a-z, ]+ (\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert len(rows) == 20
    for draws, mean, variance, exact in rows:
        # The score function from one draw is a polynomial of degree 3: its variance is a rough estimate.
        assert float(variance) == pytest.approx(float(exact), rel=0.25 if int(draws) < 5 else 0.12)
        assert float(mean) == pytest.approx(4.0, abs=5 * (float(exact) / 5000) ** 0.5)
    assert (tmp_path / "vae_derivation.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_marginal_guide_prints_the_bounds_in_their_order(tmp_path):
    printed = run("examples/marginal_guide.py", tmp_path)
    rows = re.findall(r"^(?:no|denoising|semi).*?((?: +-?[\d.]+)+)$", printed, re.MULTILINE)
    assert len(rows) == 3
    for row in rows:
        dvae, single, semi, error, cvae, evidence = (float(value) for value in row.split())
        assert dvae <= single + 0.002
        assert single - 5 * error - 0.002 <= semi <= cvae + 5 * error + 0.002
        assert cvae < evidence
    assert (tmp_path / "marginal_guide.png").read_bytes()[:4] == b"\x89PNG"


def test_swap_guides_prints_a_row_of_each(inside):
    printed = inside("examples/swap_guides.py")
    rows = re.findall(r"^([A-Za-z, ]+?) +(-[\d.]+) +[\d.]+ +(-[\d.]+) +[\d.]+ +\d+%", printed, re.MULTILINE)
    assert len(rows) == 8
    for _, bound, likelihood in rows:
        assert -80 < float(bound) < float(likelihood) + 1 < 0  # the two have draws of their own


@pytest.mark.slow
def test_learned_noise_falls_to_the_limit_under_one_bound_and_not_under_the_other(tmp_path):
    printed = run("examples/learned_noise.py", tmp_path)
    (dvae,) = re.findall(r"learned under L_dvae +0.500 -> ([\d.]+)", printed)
    (semi,) = re.findall(r"learned under L_50 +0.500 -> ([\d.]+)", printed)
    (best,) = re.findall(r"optimum of L_cvae +([\d.]+)", printed)
    assert float(dvae) < 0.06
    assert float(semi) == pytest.approx(float(best), rel=0.2)
    assert (tmp_path / "learned_noise.png").read_bytes()[:4] == b"\x89PNG"


def figures_of(printed, names):
    """The numbers of the line of each name."""
    lines = {name: re.search(rf"^{name} +(.*)$", printed, re.MULTILINE)[1] for name in names}
    return {name: [float(each) for each in re.findall(r"-?\d+\.\d+", line)] for name, line in lines.items()}


def test_count_data_is_denoised(inside, tmp_path):
    names = ["no denoising", "Poisson factors", "denoising VAE"]
    found = figures_of(inside("examples/count_data.py"), names)
    assert found["denoising VAE"][1] < found["no denoising"][1]  # the rates; small, it is behind the factors
    assert all(len(each) == 2 for each in found.values())
    assert (tmp_path / "count_data.png").read_bytes()[:4] == b"\x89PNG"


def test_mixed_table_compares_the_bound_with_independent_columns(inside, tmp_path):
    found = figures_of(inside("examples/mixed_table.py"), ["independent columns", "denoising VAE"])
    assert -23 < found["independent columns"][0] < -20
    assert -60 < found["denoising VAE"][0] < -15
    assert (tmp_path / "mixed_table.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_colour_patches_are_measured_in_bits(tmp_path):
    names = ["PNG", "full-covariance Gaussian", "denoising VAE"]
    found = figures_of(run("examples/colour_patches.py", tmp_path), names)
    assert all(0 < bits < 9 for (bits,) in found.values())
    assert (tmp_path / "colour_patches.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_benchmark_of_counts(tmp_path):
    printed = run("benchmarks/counts.py", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "counts.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    assert "scVI is skipped: give --scvi-python" in printed
    best = min(rows, key=lambda row: row["figures"][""][2])
    assert best["method"].startswith("NMF")  # of generated counts of two kinds, after two epochs
    assert "nan" not in printed
    assert run("benchmarks/counts.py", tmp_path) == printed  # they are there already


SCVI = """
import types
import numpy as np

settings = types.SimpleNamespace()

class SCVI:
    setup_anndata = staticmethod(lambda data: None)
    def __init__(self, data, gene_likelihood):
        self.counts = data
    def train(self, **options):
        assert options["max_epochs"] == 2
    def get_normalized_expression(self, n_samples, return_numpy):
        return self.counts / self.counts.sum(1, keepdims=True)
    def posterior_predictive_sample(self, n_samples):
        draws = np.repeat(self.counts[:, :, None], n_samples, 2)
        return types.SimpleNamespace(todense=lambda: draws)

model = types.SimpleNamespace(SCVI=SCVI)
"""


@pytest.mark.slow
def test_the_benchmark_of_counts_runs_scvi_in_its_own_environment(tmp_path):
    """A stand-in that returns the counts unchanged is as good as no denoising."""
    (tmp_path / "scvi.py").write_text(SCVI)
    (tmp_path / "anndata.py").write_text("AnnData = lambda counts: counts")
    (tmp_path / "python").write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    command = [sys.executable, str(ROOT / "benchmarks/counts.py"), "--quick", "--output", "found.jsonl"]
    for only in ("no denoising", "scVI, nb"):
        ask = [*command, "--scvi-python", str(tmp_path / "python"), "--only", only]
        done = subprocess.run(ask, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
    nothing, found = (
        json.loads(line)["figures"] for line in (tmp_path / "found.jsonl").read_text().splitlines()
    )
    assert found[""][1:3] == pytest.approx(nothing[""][1:3], rel=1e-5)
    assert found[", through logarithms"][1:3] == pytest.approx(nothing[""][1:3], rel=1e-5)
    assert found[""][0] < nothing[""][0]  # logarithms at the depth of what is held back


def test_conditional_vae_prints_what_labels_are_worth(inside, tmp_path):
    printed = inside("examples/conditional_vae.py")
    rows = re.findall(r"^log p\(x.*?  +(-[\d.]+) +[\d.]+ +[\d.]+%$", printed, re.MULTILINE)
    (worth,) = re.findall(r"^labels are worth (-?[\d.]+) ± [\d.]+ nats$", printed, re.MULTILINE)
    conditional, without = map(float, rows)
    assert -64 < without < 0
    assert float(worth) == pytest.approx(conditional - without, abs=0.011)
    assert (tmp_path / "conditional_vae.png").read_bytes()[:4] == b"\x89PNG"


def test_semi_supervised_prints_the_accuracy_of_each(inside, tmp_path):
    printed = inside("examples/semi_supervised.py")
    rows = re.findall(r"^(?:all|labelled) rows.*?([\d.]+)%$", printed, re.MULTILINE)
    model, alone, regression = map(float, rows)
    assert regression > 80  # with 200 labels of digits
    assert min(model, alone) > 15  # after two epochs; 10 by chance
    assert (tmp_path / "semi_supervised.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow  # a process of each source
def test_benchmark_of_the_sources_of_rows(tmp_path):
    printed = run("benchmarks/data.py", tmp_path)
    rows = re.findall(r"^(\S.*?) {2,}([\d.]+) .*? ([\d.]+)$", printed, re.MULTILINE)
    assert len(rows) == 8
    assert all(float(step) > 0 and float(peak) > 0.1 for _, step, peak in rows)


@pytest.mark.slow
def test_benchmark_of_the_bounds(tmp_path):
    printed = run("benchmarks/bounds.py", tmp_path)
    assert "TraceSemiImplicit_ELBO" in printed
    assert "VIMCO" in printed
    assert "nan" not in printed.lower()


def test_heldout_likelihood_is_exact_or_reported_as_unreliable(inside, tmp_path):
    printed = inside("examples/heldout_likelihood.py")
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


@pytest.mark.slow
def test_benchmark_of_the_likelihood(tmp_path):
    printed = run("benchmarks/likelihood.py", tmp_path)
    for name in ("floor, our choice", "ours, every pass anew", "ours, recorded", "ours, compiled", "script"):
        assert name in printed
    means = [float(value) for value in re.findall(r" 200 +(-[\d.]+)$", printed, re.MULTILINE)]
    assert len(means) >= 5
    assert max(means) - min(means) < 5  # all estimate the same quantity, about 590 nats
    assert "nan" not in printed.lower()


def says_who_is_missing(printed, **libraries):
    """Whether a peer has a row with figures, or a line that says that its library is not installed."""
    return all(
        re.search(rf"^{label} +[\d.]+ ", printed, re.MULTILINE)
        if importlib.util.find_spec(library)
        else re.search(rf"^skipped: {label}: {library} is not installed", printed, re.MULTILINE)
        for library, label in libraries.items()
    )


@pytest.mark.slow
def test_benchmark_of_the_step(tmp_path):
    printed = run("benchmarks/step.py", tmp_path)
    assert says_who_is_missing(printed, jax="NumPyro, jitted scan", pythae="pythae's VAE")
    for label in ("Pyro SVI, validation off", "torch by hand, eager", "CompiledSVI"):
        assert re.search(rf"^{label} +[\d.]+ ", printed, re.MULTILINE)
    assert "losses of the first two epochs agree" in printed
    stored = json.loads((tmp_path / "step.json").read_text())["contenders"]
    losses = [stored[name]["losses"] for name in ("stock", "eager", "compiled")]
    for each in zip(*losses, strict=True):
        assert max(each) < 1.1 * min(each)  # the same initial weights and data, other noise
    assert stored["stock"]["seconds"][0] > 0
    assert stored["stock"]["peak_bytes"] > 1e8  # torch alone has more


@pytest.mark.slow
def test_picture_of_how_the_step_grows(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "step.py"), "--quick", "--threads", "1"]
    command += ["--rounds", "1", "--only", "products", "--only", "stock", "--growth", "growth.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"
    axes = json.loads((tmp_path / "growth.json").read_text())["axes"]
    assert {axis: sorted(map(int, values)) for axis, values in axes.items()} == {
        "batch": [20, 40],
        "width": [8, 16],
        "draws": [1, 5],
        "rows": [200, 400],
    }
    assert all(values[at]["stock"]["peak_bytes"] > 1e8 for values in axes.values() for at in values)


def test_picture_of_growth_shows_the_largest_memory(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    growth = importlib.import_module("peers.growth")
    monkeypatch.setattr(plt, "close", lambda figure: None)
    memory = {axis: {1: 0.9e9, 10: top} for axis, top in zip(growth.AXES, (1e9, 2e9, 3e9, 4e9), strict=True)}
    found = {
        axis: {at: {"stock": {"seconds": [0.001], "peak_bytes": size}} for at, size in sizes.items()}
        for axis, sizes in memory.items()
    }
    growth.draw(found, ["stock"], "title", tmp_path / "growth.png")
    limits = [axes.get_ylim() for axes in plt.gcf().axes[4:]]
    monkeypatch.undo()
    plt.close("all")
    assert all(low == 0 and high >= 4 for low, high in limits)


@pytest.mark.slow
def test_benchmark_of_whole_commands(tmp_path):
    printed = run("benchmarks/end_to_end.py", tmp_path)
    assert says_who_is_missing(printed, pyro="Pyro's example", pythae="pythae's trainer")
    bounds = [float(value) for value in re.findall(r"\) +(-[\d.]+)$", printed, re.MULTILINE)]
    assert len(bounds) >= 3
    assert max(bounds) - min(bounds) < 0.05 * abs(min(bounds))  # all did the same work


@pytest.mark.slow
def test_benchmark_of_imports(tmp_path):
    printed = run("benchmarks/imports.py", tmp_path)
    rows = dict(re.findall(r"^(\S.*?) {2,}([\d.]+) ", printed, re.MULTILINE))
    assert len(rows) == 8
    assert float(rows["import pyro"]) > float(rows["python, nothing"])


@pytest.mark.slow  # each of its five processes compiles
def test_benchmark_of_models_side_by_side(tmp_path):
    lines = run("benchmarks/side_by_side.py", tmp_path).splitlines()
    assert [float(line.split()[-1]) > 0 for line in lines[1:]] == [True] * 3


def cells(table):
    """The cells of each row of a Markdown table, by the name of the system in the first."""
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in table.splitlines() if re.match(r"\| `[\w-]+`:", line)]
    return {re.match("`(.*?)`", row[0])[1]: row for row in rows}


@pytest.mark.slow
def test_benchmark_of_the_systems_and_its_table_in_the_docs(inside, tmp_path):
    """All systems, with every bound that applies; the page has the rows that the script prints."""
    inside("benchmarks/systems.py")
    rows = [json.loads(line) for line in (tmp_path / "systems.jsonl").read_text().splitlines()]
    for row in rows:
        assert (row["bound"] is None) == row["name"].startswith("autoencoder")
        for found in (row["bound"], row["trained_bound"]):
            limit = -10_000 if row["name"].startswith("counts-") else -1000  # counts up to 16
            assert found is None or limit < found["mean"] < 200  # nats, of 64 pixels after three steps
    assert inside("benchmarks/systems.py") == ""  # they are there already
    printed = cells(inside("benchmarks/systems.py", "--table", "--output", "systems.jsonl"))
    page = cells((ROOT / "docs" / "systems.md").read_text())
    assert len(printed) >= 45
    assert [row[:4] for row in printed.values()] == [row[:4] for row in page.values()]
    for row in page.values():
        assert re.search(r"\d+\.\d\d", row[4]), row[0]
        assert re.search(r"\d CPU s$|^same run as `", row[5]), row[0]
