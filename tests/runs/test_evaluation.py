"""``pyro-dvae evaluate`` and its function, on tiny runs."""

import functools
import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from commands import call

from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.datasets.base import permuted_split
from pyro_dvae.errors import CheckpointError, DataError, InputError
from pyro_dvae.evaluation import (
    active_units,
    bits_per_dim,
    bound_parts,
    evaluate_bound,
    linear_probe,
    log_likelihood,
    read_netcdf,
    reconstruction_error,
)
from pyro_dvae.evaluation.annealing import annealed_log_likelihood, bidirectional
from pyro_dvae.jobs import findings
from pyro_dvae.jobs.data import grid_of
from pyro_dvae.jobs.evaluate import JSON, NETCDF, PARTIAL, EvaluationStopped, evaluate_run, strict_json
from pyro_dvae.jobs.evaluated import load_evaluated_run
from pyro_dvae.jobs.evaluation_table import table
from pyro_dvae.jobs.options import EvaluationOptions
from pyro_dvae.random_state import derived_seed

SMALL = ["--dataset", "digits", "--epochs", "1", "--importance-samples", "0", "--width", "16"]
SMALL += ["--latent-size", "4", "--quiet"]
TINY = EvaluationOptions(
    samples=40, count=12, annealed=3, annealing_steps=3, chains=3, simulated=2, no_compile=True
)
ARGUMENTS = ["--samples", "40", "--count", "12", "--annealed", "3", "--annealing-steps", "3"]
ARGUMENTS += ["--chains", "3", "--simulated", "2", "--no-compile"]
BARE = EvaluationOptions(samples=30, count=6, annealed=0, simulated=0)
PICTURES = ["log_likelihood_histogram", "pareto_k", "convergence", "hardest_and_easiest", "kl_per_dimension"]


def trained(folder, *options):
    """A run of one epoch, in ``folder``."""
    pyro.clear_param_store()
    call("train", *SMALL, *options, "--output", folder)
    pyro.clear_param_store()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run", "--noise", "0.1", "--noise-schedule", "linear")


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A Gaussian decoder of grey pixels."""
    options = ["--likelihood", "gaussian", "--binarisation", "none", "--noise-kind", "gaussian"]
    return trained(tmp_path_factory.mktemp("runs") / "grey", *options)


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures out, where a test is not of them."""
    from pyro_dvae.jobs import evaluate

    monkeypatch.setattr(evaluate, "draw", lambda *_: [])


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def evaluated(run):
    """What the command wrote, into the run's own folder."""
    call("evaluate", run, *ARGUMENTS, "--quiet")
    return strict(run / "evaluation" / JSON)


def files_in(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def without_times(content):
    return {name: value for name, value in content.items() if name not in ("seconds", "files", "run")}


def test_the_command_writes_everything(run, evaluated):
    folder = run / "evaluation"
    names = {JSON, NETCDF, *(f"{name}.png" for name in PICTURES)}
    assert files_in(folder) == names  # and no partial file any more
    assert {Path(path).name for path in evaluated["files"]} == names
    for name in PICTURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert evaluated["settings"] == TINY.as_dict()
    assert evaluated["versions"].keys() >= {"torch", "pyro", "pyro_dvae", "arviz"}
    parts = {"bound_parts", "active_units", "reconstruction_error", "linear_probe", "log_likelihood"}
    assert evaluated["seconds"].keys() == parts | {"annealed", "bidirectional", "pictures_and_files", "total"}


@pytest.mark.slow
def test_advice_names_options_of_the_command(evaluated):
    content = json.loads(json.dumps(evaluated))
    advice = "so the estimate is too low; try proposal='mixture', widen=1.2, defensive=0.1 or more"
    content["log_likelihood"]["advice"] = advice
    shown = table(content)
    assert "try --proposal mixture, --widen 1.2, --defensive 0.1 or more" in " ".join(shown.split())
    assert all(len(line) <= 100 for line in shown.splitlines() if "/" not in line)


def test_measures_equal_those_of_the_library(run, evaluated):
    subject = load_evaluated_run(run, TINY)
    x, (train, test) = subject.x, subject.labels()
    pair = (subject.dvae.model, subject.dvae.guide)
    annealing = {"start": "guide", "num_steps": 3, "num_chains": 3, "seed": 0}
    with pyro.settings.context(module_local_params=True):
        likelihood = log_likelihood(*pair, x, num_samples=40, seed=0)
        annealed = annealed_log_likelihood(*pair, x[:3], **annealing)
        expected = {
            "log_likelihood": likelihood.to_dict(per_datum=True),
            "bidirectional": bidirectional(pair[0], pair[1], x[:2], **annealing).to_dict(per_datum=True),
            "bound_parts": bound_parts(*pair, x, seed=0).to_dict(),
            "active_units": active_units(*pair, x, seed=0).to_dict(),
            "reconstruction_error": reconstruction_error(*pair, x, seed=0).to_dict(),
            "linear_probe": linear_probe(*pair, subject.train_x(), train, x, test, seed=0).to_dict(),
        }
    for name, values in expected.items():
        assert evaluated[name] == json.loads(strict_json(values)), name
    found = evaluated["annealed"]
    assert found["per_datum_log_likelihood"] == annealed.log_likelihood.tolist()
    same = found["same_data"]
    assert same["importance_mean"] == pytest.approx(float(likelihood.log_likelihood[:3].mean()), abs=1e-12)
    assert same["difference"] == pytest.approx(same["annealed_mean"] - same["importance_mean"], abs=1e-12)
    assert evaluated["bits_per_dimension"]["mean"] == pytest.approx(bits_per_dim(-likelihood.mean, 64))
    assert evaluated["log_p_is_of"] == "probability"


def test_the_data_are_those_of_the_runs_evaluation(run):
    subject = load_evaluated_run(run, EvaluationOptions())
    results = json.loads((run / "results.json").read_text())
    with pyro.settings.context(module_local_params=True):
        bound = evaluate_bound(
            subject.dvae.model,
            subject.dvae.guide,
            subject.x,
            loss=TraceDenoising_ELBO(max_plate_nesting=1),
            seed=derived_seed(subject.options.seed, "evaluation", "test_bound"),
        )
    assert bound.mean == results["test_bound"]["mean"]
    assert bound.standard_error == results["test_bound"]["standard_error"]


def test_the_corruption_is_at_the_level_of_the_epoch(tmp_path):
    schedule = ["--noise", "0.2", "--noise-schedule", "linear", "--noise-end", "0", "--epochs", "2"]
    folder = trained(tmp_path / "run", *schedule)
    last = load_evaluated_run(folder, EvaluationOptions(which="last"))
    assert last.epoch == 2
    (level,) = last.dvae.guide.corruption.levels()
    assert float(level()) == pytest.approx(0.1)  # as in the second of two epochs from 0.2 to 0


def test_netcdf_reads_back(run, evaluated):
    group = read_netcdf(run / "evaluation" / NETCDF)["importance_sampling"]
    for name, values in evaluated["log_likelihood"]["per_datum"].items():
        assert np.array_equal(np.asarray(group[name]), values), name
    assert "log_weight" not in group


def test_the_log_weights_can_be_kept(run, tmp_path, undrawn):
    options = EvaluationOptions(**(BARE.as_dict() | {"keep_weights": True, "proposal": "mixture"}))
    content = evaluate_run(run, options, output=tmp_path / "out", quiet=True)
    group = read_netcdf(tmp_path / "out" / NETCDF)["importance_sampling"]
    samples = content["log_likelihood"]["num_samples"]
    weights = np.asarray(group["log_weight"], dtype=np.float64)
    assert weights.shape == (6, samples)
    mean = np.logaddexp.reduce(weights, axis=1) - math.log(samples)
    assert np.allclose(mean, content["log_likelihood"]["per_datum"]["log_likelihood"], atol=1e-5)


def test_the_table_has_every_figure(evaluated, capsys):
    text = table(evaluated)
    for label in ("log p(x)", "Pareto k", "annealed", "bidirectional", "KL of z", "active units", "probe"):
        assert label in text
    assert f"{evaluated['log_likelihood']['mean']:.3f} ± " in text
    assert f"{evaluated['annealed']['same_data']['importance_mean']:.3f} ± " in text
    widths = {len(line) - len(line[line.index("  ") :].lstrip()) for line in text.splitlines()[:2]}
    assert len(widths) == 1
    assert evaluated["files"][-1] in text


@pytest.mark.parametrize(("kl", "told"), [(0.97, True), (9.7, False)])
def test_many_active_units_with_a_small_kl_are_explained(kl, told, evaluated):
    content = json.loads(json.dumps(evaluated))
    content["active_units"] |= {"count": 43, "total": 50}
    content["bound_parts"]["kl"]["z"]["mean"] = kl
    text = " ".join(table(content).split())
    assert ("0.023 nats of KL each on average: the code says almost nothing" in text) is told


def test_progress_is_on_the_error_stream_unless_quiet(run, tmp_path, capsys, undrawn):
    for quiet in (False, True):
        evaluate_run(run, BARE, output=tmp_path / "out", quiet=quiet)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert ("importance sampling, 6 test data" in printed.err) is not quiet


def test_parts_can_be_omitted_and_an_evaluation_repeated(run, tmp_path, undrawn):
    content = evaluate_run(run, BARE, output=tmp_path / "out", quiet=True)
    assert content["annealed"] is None
    assert content["bidirectional"] is None
    assert not any(line.startswith("annealed") for line in table(content).splitlines())
    one = EvaluationOptions(samples=20, count=1, annealed=0, simulated=0, which="last", proposal="corrupted")
    content = evaluate_run(run, one, output=tmp_path / "out", quiet=True)
    assert content["active_units"] is None  # no variance over a single datum
    assert content["log_likelihood"]["standard_error_of_mean"] is None
    assert strict(tmp_path / "out" / JSON)["settings"]["samples"] == 20
    assert "nan" not in table(content)


def test_nothing_global_changes(run, tmp_path, undrawn):
    state = torch.get_rng_state()
    evaluate_run(run, BARE, output=tmp_path / "out", quiet=True)
    assert torch.equal(state, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())


@pytest.mark.slow
def test_a_gaussian_decoder(grey, tmp_path):
    options = EvaluationOptions(**(TINY.as_dict() | {"simulated": 0}))
    content = evaluate_run(grey, options, output=tmp_path / "out", quiet=True)
    assert content["log_p_is_of"] == "density"
    bits = content["bits_per_dimension"]
    assert bits["steps"] == 16
    nats = -content["log_likelihood"]["mean"]
    assert bits["mean"] == pytest.approx(bits_per_dim(nats, 64, scale=16))
    assert content["reconstruction_error"]["from_mean"]["cross_entropy"] is None
    assert "in steps of 1/16: 4.00 bits added" in table(content)


def test_grey_pixels_under_a_bernoulli_decoder_have_no_density(tmp_path, undrawn):
    folder = trained(tmp_path / "run", "--binarisation", "none", "--noise", "0")
    content = evaluate_run(folder, BARE, quiet=True)
    assert content["bits_per_dimension"] is None
    assert "not a density" in table(content)


ARRAYS = {
    "bytes": lambda rng: rng.integers(0, 256, (60, 2, 3)).astype(np.uint8),
    "none": lambda rng: rng.poisson(3.0, (60, 2, 3)),
    "standardise": lambda rng: rng.normal(100, 30, (60, 2, 3)),
}


@pytest.mark.parametrize(
    ("scale", "likelihood", "of"),
    [
        ("bytes", "discretised-logistic", "probability"),
        ("bytes", "continuous-bernoulli", "density"),
        ("none", "negative-binomial", "probability"),
        ("standardise", "gaussian-columns", "density"),
    ],
)
def test_bits_of_an_own_array_are_of_its_own_values(scale, likelihood, of, tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    images = ARRAYS[scale](np.random.default_rng(0))
    np.save("mine.npy", images)
    folder = trained(tmp_path / "run", "--dataset", "mine.npy", "--scale", scale, "--likelihood", likelihood)
    content = evaluate_run(folder, BARE, quiet=True)
    assert content["log_p_is_of"] == of
    nats, factor = -content["log_likelihood"]["mean"], 1.0
    if of == "density":
        factor = 255.0 if scale == "bytes" else images[permuted_split(60, (48, 6, 6), 0)[0]].std()
        added = f"(density of values in the units of the data: {math.log2(factor):.2f} bits added)"
        assert added in " ".join(table(content).split())
        assert f"original units {-nats - 6 * math.log(factor):.3f} nats" in " ".join(table(content).split())
    else:
        assert "added" not in table(content)
        assert "original units" not in table(content)
    expected = nats / (6 * math.log(2)) + math.log2(factor)
    assert content["bits_per_dimension"]["mean"] == pytest.approx(expected, rel=1e-5)


def test_a_users_own_array_without_labels(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", np.random.default_rng(0).random((60, 9)))
    folder = trained(tmp_path / "run", "--dataset", "mine.npy", "--binarisation", "dynamic")
    content = evaluate_run(folder, BARE, quiet=True)
    assert content["linear_probe"] is None
    assert "linear probe" not in table(content)
    rows = np.load("mine.npy")
    rows[permuted_split(60, (48, 6, 6), 0)[2][0]] /= 2  # one row of the test data
    np.save("mine.npy", rows)
    with pytest.raises(DataError, match="different values"):
        evaluate_run(folder, BARE, quiet=True)
    np.save("mine.npy", np.random.default_rng(1).random((70, 9)))
    with pytest.raises(DataError, match=r"sizes"):
        evaluate_run(folder, BARE, quiet=True)


def interrupting(log_likelihood, at):
    """``log_likelihood`` with a Ctrl-C once ``at`` data are done."""

    def interrupt(done, total):
        if done >= at:
            signal.raise_signal(signal.SIGINT)

    @functools.wraps(log_likelihood)
    def wrapped(*args, **kwargs):
        return log_likelihood(*args, **(kwargs | {"progress": interrupt}))

    return wrapped


def test_a_stopped_evaluation_resumes(copy, monkeypatch, capsys, undrawn):
    command = [
        "evaluate",
        copy,
        "--samples",
        600,
        "--count",
        18,
        "--annealed",
        0,
        "--simulated",
        0,
        "--quiet",
    ]
    folder = copy / "evaluation"
    shutil.rmtree(folder, ignore_errors=True)
    call(*command)
    whole = strict(folder / JSON)
    shutil.rmtree(folder)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(findings, "log_likelihood", interrupting(log_likelihood, 4))
        call(*command, code=130)
    told = f"stopped; continue with: pyro-dvae {' '.join(map(str, command))}\n"
    assert capsys.readouterr().err.lstrip() == told  # click begins a line after ^C
    assert files_in(folder) == {PARTIAL}
    with pytest.raises(CheckpointError, match=r"num_samples was 600, is now 30; finish that evaluation"):
        evaluate_run(copy, EvaluationOptions(**(BARE.as_dict() | {"count": 18})), quiet=True)
    call(*command)
    assert not (folder / PARTIAL).exists()
    assert without_times(strict(folder / JSON)) == without_times(whole)


def test_a_stop_after_the_likelihood_keeps_it(copy, monkeypatch, tmp_path, undrawn):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(findings, "annealed_log_likelihood", stop)
        with pytest.raises(EvaluationStopped) as stopped:
            evaluate_run(copy, TINY, output=tmp_path / "out", quiet=True)
    assert stopped.value.checkpoint == tmp_path / "out" / PARTIAL
    less = EvaluationOptions(**(TINY.as_dict() | {"annealed": 0, "simulated": 0}))
    evaluate_run(copy, less, output=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / PARTIAL).exists()


BAD = {
    "samples": (["--samples", "0"], "samples: expected a whole number of at least 1, got 0"),
    "proposal": (["--proposal", "best"], "'best' is not one of"),
    "corruptions": (["--proposal", "mixture", "--corruptions", "1"], "corruptions"),
    "corruptions of no mixture": (
        ["--proposal", "clean", "--corruptions", "5"],
        "corruptions: it has no effect",
    ),
    "defensive": (["--defensive", "1"], "defensive"),
    "widen": (["--widen", "-1"], "widen"),
    "none": (["--count", "0"], "count: expected a whole number of at least 1, got 0"),
    "too many": (["--count", "271"], "count: expected at most 270, the number of test rows, got 271"),
    "seed": (["--seed", "-1"], "seed"),
    "memory": (["--memory", "0"], "memory"),
    "steps": (["--annealing-steps", "0"], "annealing_steps"),
    "chains": (["--chains", "0"], "chains"),
    "annealed": (["--annealed", "-1"], "annealed"),
    "simulated": (["--simulated", "-1"], "simulated"),
    "which": (["--which", "first"], "'first' is not one of"),
    "device": (["--device", "cuda:99"], "device"),
    "output": (["--output", "config.json"], "cannot write"),
    "weights": (["--keep-weights", "--memory", "1", "--samples", "100000"], "keep_log_weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, copy, capsys, monkeypatch):
    monkeypatch.chdir(copy)
    arguments, message = BAD[case]
    call("evaluate", ".", "--quiet", *arguments, code=2)
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_a_folder_that_is_no_run(tmp_path, capsys, copy):
    for folder, message in ((tmp_path / "absent", "no folder"), (tmp_path, "not a run folder")):
        call("evaluate", folder, code=2)
        assert message in capsys.readouterr().err
    (copy / "checkpoint.safetensors").unlink()
    call("evaluate", copy, code=2)
    assert "no checkpoint yet" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_the_digits_that_stood_in_for_mnist(tmp_path, monkeypatch, undrawn):
    from pyro_dvae.datasets import mnist
    from pyro_dvae.datasets.base import UnavailableError

    def unavailable(*args, **kwargs):
        raise UnavailableError("no network in tests")

    monkeypatch.setattr(mnist, "_fetch", unavailable)
    call("train", *SMALL[2:], "--data-folder", tmp_path / "absent", "--output", tmp_path / "run")
    content = evaluate_run(tmp_path / "run", BARE, quiet=True)
    assert content["data"]["name"] == "digits"
    assert "NOT mnist" in table(content)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"] |= {"name": "mnist", "substituted_for": None}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="no network"):
        evaluate_run(tmp_path / "run", BARE, quiet=True)


def test_data_of_another_size_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["data"]["sizes"][2] = 99
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"sizes was \[1257, 270, 99\]"):
        evaluate_run(copy, BARE, quiet=True)


@pytest.mark.parametrize(
    ("values", "steps"),
    [([0.0, 1.0], 1), ([0.0, 0.5], 2), ([k / 16 for k in range(17)], 16), ([7 / 255, 1.0], 255)],
)
def test_the_grid_of_grey_values(values, steps):
    assert grid_of(torch.tensor(values)) == steps


def test_values_off_any_grid():
    assert grid_of(torch.rand(1000)) is None
    assert grid_of(torch.tensor([1 / math.pi])) is None


def test_lists_of_numbers_take_one_line():
    text = strict_json({"a": [1.5, None], "b": {"c": ["x [\n", "y"]}, "d": []})
    assert '"a": [ 1.5, null ]' in text
    assert json.loads(text) == {"a": [1.5, None], "b": {"c": ["x [\n", "y"]}, "d": []}
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json({"a": math.nan})


def test_rates_by_the_mean_image_equal_those_of_training(tmp_path):
    folder = trained(tmp_path / "run", "--noise", "0.2", "--noise-pattern", "mean-image")
    subject = load_evaluated_run(folder, EvaluationOptions())
    rate = subject.dvae.guide.corruption.rate().cpu()
    mean = subject.data.dataset.train.mean(0)
    assert float(rate.mean()) == pytest.approx(0.2, abs=1e-6)
    assert float(torch.corrcoef(torch.stack([rate, mean]))[0, 1]) > 0.9
