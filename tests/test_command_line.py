"""The example and the command, run as a user runs them, small."""

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from commands import call
from safetensors.numpy import load_file

import pyro_dvae as dv
from pyro_dvae.jobs.data import prepare
from pyro_dvae.jobs.ending import closing_table
from pyro_dvae.jobs.folder import load_run
from pyro_dvae.jobs.options import Options

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "mnist_dvae.py"
SMALL = [
    "--dataset",
    "digits",
    "--epochs",
    "2",
    "--importance-samples",
    "3",
    "--width",
    "16",
    "--latent-size",
    "4",
]


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def script(*arguments, timeout=300, **options):
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **options)


def weights(folder):
    tensors = load_file(Path(folder) / "checkpoint.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("parameters/")}


def assert_same_weights(one, other):
    left, right = weights(one), weights(other)
    assert set(left) == set(right)
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


def test_the_next_steps_name_a_folder_of_any_name(tmp_path):
    folder = tmp_path / 'it\'s "ü" \\n $x'
    results = {"data": {"name": "digits", "substituted_for": None}, "best_epoch": None}
    command, code = closing_table(results, folder, []).splitlines()[-2:]
    assert shlex.split(command) == ["next:", "pyro-dvae", "evaluate", str(folder)]
    assert ast.literal_eval(code.split("load(")[1].split(").denoise")[0]) == str(folder)
    results["data"]["columns"] = [{"name": "city", "kind": "category"}]  # has no mean
    code = closing_table(results, folder, []).splitlines()[-1]
    assert shlex.split(code) == ["pyro-dvae", "score", str(folder), "FILE"]


def test_example_trains_evaluates_and_writes_everything(tmp_path):
    done = script("--noise", "0.1", *SMALL, "--latent-size", "2", "--output", "run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    names = ["config.json", "metrics.jsonl", "results.json", "checkpoint.safetensors"]
    pictures = ["learning_curves.png", "prior_samples.png", "reconstructions.png", "manifold.png"]
    for name in names + pictures:
        assert (folder / name).exists(), name
        assert name in done.stdout
    *table, first, second = done.stdout.splitlines()
    assert max(map(len, table)) <= 100
    assert (first, second) == ("next: pyro-dvae evaluate run", "      dv.load('run').denoise(rows)")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    results = json.loads((folder / "results.json").read_text())
    assert results["data"]["name"] == "digits"
    assert results["importance_weighted_bound"]["samples"] == 3
    for name in ("test_bound", "importance_weighted_bound"):
        assert -64 * np.log(2) - 5 < results[name]["mean"] < 0
        assert results[name]["standard_error"] > 0
    assert results["importance_weighted_bound"]["mean"] > results["test_bound"]["mean"]
    assert lines[results["best_epoch"] - 1]["validation_bound"] == results["best_validation_bound"]
    assert "epoch 2/2" in done.stderr
    assert "validation" in done.stderr


@pytest.mark.slow
def test_command_and_example_are_the_same_job(capsys):
    call("train", "--noise", "0.1", *SMALL, "--output", "a")
    assert script("--noise", "0.1", *SMALL, "--output", "b").returncode == 0
    assert_same_weights("a", "b")


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pyro_dvae", "evaluate", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: pyro-dvae evaluate [OPTIONS]")


def test_sample_and_info_read_a_run(capsys, tmp_path):
    call("train", "--noise", "0.1", *SMALL, "--output", "run", "--quiet")
    capsys.readouterr()
    call("sample", "run", "--count", "9")
    call("sample", "run", "--count", "5", "--output", "draws.npy", "--pixels")
    draws = np.load("draws.npy")
    assert draws.shape == (5, 8, 8)
    assert set(np.unique(draws)) <= {0.0, 1.0}
    assert (tmp_path / "run" / "samples.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    call("info", "run", "--json")
    content = json.loads(capsys.readouterr().out)
    assert content["progress"]["epochs_done"] == 2
    assert content["results"]["test_bound"]["mean"] < 0
    call("info", "run")
    text = capsys.readouterr().out
    assert "salt-and-pepper 0.1" in text
    assert "2 of 2 epochs" in text


def test_sampling_is_reproducible_and_uses_the_best_epoch(capsys):
    call("train", "--noise", "0.1", *SMALL, "--output", "run", "--quiet")
    for name in ("a.npy", "b.npy"):
        call("sample", "run", "--count", "4", "--seed", "3", "--output", name)
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))


@pytest.mark.parametrize(
    "options",
    [
        ["--noise", "0"],
        ["--noise-kind", "bit-flip", "--learn-noise", "--corruptions", "2", "--particles", "2"],
        ["--noise-kind", "gaussian", "--noise", "0.3", "--learn-noise"],
        ["--noise-kind", "masking", "--noise-schedule", "linear"],
        ["--salt", "rate", "--noise-schedule", "step", "--noise-end", "0.01"],
        ["--bound", "diwae", "--particles", "5", "--activation", "tanh", "--hidden-layers", "2"],
        ["--bound", "mean-field"],
        ["--bound", "semi-implicit", "--learn-noise", "--noise", "0.2"],
        ["--binarisation", "dynamic", "--rate-schedule", "paper", "--clip-norm", "5"],
        ["--noise-pattern", "mean-image", "--binarisation", "dynamic"],
        ["--binarisation", "none"],
        ["--binarisation", "none", "--likelihood", "gaussian", "--noise-kind", "gaussian"],
        ["--binarisation", "threshold", "--importance-samples", "0", "--batch-size", "7"],
    ],
)
def test_every_option_trains(options, capsys):
    call("train", *SMALL, *options, "--output", "run", "--quiet")
    results = json.loads(Path("run/results.json").read_text())
    assert np.isfinite(results["test_bound"]["mean"])
    call("info", "run")
    call("sample", "run")


def test_importance_weights_are_validated_by_their_own_bound(capsys):
    options = ["--bound", "diwae", "--particles", "20", "--noise", "0", "--output", "run", "--quiet"]
    call("train", *SMALL, *options)
    results = json.loads(Path("run/results.json").read_text())
    assert results["trained_bound"]["mean"] > results["test_bound"]["mean"] + 0.2
    dvae, config = load_run("run")
    options = Options.from_dict(config["options"])
    data = prepare(dv.load_dataset("digits"), options, torch.device("cpu"))
    validation = data.visit(data.validation)
    with pyro.settings.context(module_local_params=True):
        own, simple = (
            dv.evaluate_bound(dvae.model, dvae.guide, validation, loss=bound, seed=0)
            for bound in (
                dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=20),
                dv.TraceDenoising_ELBO(),
            )
        )
    assert abs(own.mean - results["best_validation_bound"]) < (own.mean - simple.mean) / 4


def test_learned_noise_is_reported(capsys):
    call("train", *SMALL, "--learn-noise", "--noise", "0.2", "--output", "run", "--quiet")
    (level,) = json.loads(Path("run/results.json").read_text())["noise_levels"]
    assert 0.001 < level < 1
    assert level != pytest.approx(0.2, abs=1e-6)


def test_a_resumed_run_may_be_longer(capsys):
    constant = ["--rate-schedule", "constant"]
    call("train", *SMALL, *constant, "--output", "a", "--quiet", "--epochs", "3")
    call("train", *SMALL, *constant, "--output", "b", "--quiet")
    call("train", "--resume", "b", "--epochs", "3", "--quiet")
    assert_same_weights("a", "b")
    assert len(Path("b/metrics.jsonl").read_text().splitlines()) == 3


LONG = ["--dataset", "digits", "--epochs", "6", "--importance-samples", "0", "--batch-size", "8"]


@pytest.mark.slow  # tests/runs/test_kills.py kills at every operation
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_equals_uninterrupted(stop, tmp_path):
    assert script(*LONG, "--output", "whole").returncode == 0
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), *LONG, "--output", "cut"], stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)  # in the middle of an epoch
    process.send_signal(stop)
    errors = process.communicate(timeout=60)[1]
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume cut" in errors
    epochs = len(metrics.read_text().splitlines())
    assert epochs < 6
    resumed = script("--resume", "cut")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights("whole", "cut")
    for name in ("metrics.jsonl", "results.json"):
        whole, cut = ((tmp_path / run / name).read_text() for run in ("whole", "cut"))
        assert without_times(whole) == without_times(cut)


def without_times(text):
    if "\n{" in text.strip():
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]
    return {key: value for key, value in json.loads(text).items() if key != "seconds"}


BAD = {
    "rate": (["--noise", "1.5"], "noise: expected a number in [0, 1], got 1.5"),
    "nan": (["--noise", "nan"], "noise: expected a number in [0, 1], got nan"),
    "word": (["--noise", "lots"], "'lots' is not a valid float"),
    "option": (["--nois", "1"], "--nois"),
    "folder": (["--dataset", "mnist", "--data-folder", "absent"], "--dataset digits"),
    "dataset": (["--dataset", "mnits"], "did you mean 'mnist'"),
    "gpu": (["--device", "cuda:99"], "--device cpu"),
    "epochs": (["--epochs", "0"], "epochs: expected a whole number of at least 1, got 0"),
    "batch": (["--batch-size", "0"], "batch_size"),
    "rate of learning": (["--learning-rate", "0"], "learning_rate"),
    "layers": (["--hidden-layers", "5"], "hidden_layers"),
    "salt": (["--salt", "most"], "salt: expected a number in [0, 1] or 'rate'"),
    "resume": (["--resume", "absent"], "no folder absent"),
    "learned at 0": (["--learn-noise", "--noise", "0"], "learned level must start inside"),
    "learned by the mean": (
        ["--learn-noise", "--noise-pattern", "mean-image"],
        "noise_pattern: 'mean-image'",
    ),
    "no schedule": (["--noise-end", "0.2"], "noise_end: it has no effect without --noise-schedule linear or"),
    "not learned": (["--minimum-noise", "0.2"], "minimum_noise: it has no effect without --learn-noise"),
    "other noise": (["--noise-kind", "masking", "--salt", "0.2"], "--noise-kind salt-and-pepper"),
    "no compiler": (["--bfloat16", "--no-compile"], "bfloat16: it has no effect without --compile"),
    "two ways": (["--learn-noise", "--noise-schedule", "linear"], "both scheduled and learned"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, capsys, monkeypatch, tmp_path):
    import torchvision

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", refuse)
    arguments, message = BAD[case]
    # A later option wins in click, so the small defaults come first.
    printed = call("train", *SMALL, *arguments, code=2, capsys=capsys)
    lines = printed.err.strip().splitlines()
    assert len([line for line in lines if line.startswith("error:")]) == 1
    assert message in lines[-1]
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_run_is_not_touched(capsys):
    call("train", *SMALL, "--output", "run", "--quiet")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    printed = call("train", *SMALL, "--output", "run", "--quiet", code=2, capsys=capsys)
    assert "--resume run" in printed.err
    printed = call("train", "--resume", "run", "--noise", "0.3", code=2, capsys=capsys)
    assert "noise: the run in run has 0.05, got 0.3" in printed.err
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_runs_without_a_name_get_folders_of_their_own(capsys):
    for _ in range(2):
        call("train", *SMALL, "--quiet")
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "digits-dvae-noise0.05-width16-latent-size4-seed0",
        "digits-dvae-noise0.05-width16-latent-size4-seed0-2",
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/null")
def test_an_unwritable_output_folder(capsys):
    printed = call("train", *SMALL, "--output", "/dev/null/run", code=2, capsys=capsys)
    assert "cannot write" in printed.err


def test_a_damaged_checkpoint_is_refused(capsys):
    call("train", *SMALL, "--output", "run", "--quiet")
    path = Path("run/checkpoint.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for command in (["train", "--resume", "run", "--epochs", "3"], ["info", "run"]):
        call(*command, code=2)  # after the lines that describe the run
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: checkpoint")
    path.write_bytes(content[:1000])
    printed = call("sample", "run", code=2, capsys=capsys)
    assert printed.err.startswith("error: checkpoint")


def test_data_that_changed_is_refused_on_resume(capsys):
    generator = np.random.default_rng(0)
    np.save("mine.npy", generator.random((60, 16)))
    mine = [
        "--dataset",
        "mine.npy",
        "--epochs",
        "1",
        "--importance-samples",
        "0",
        "--output",
        "run",
        "--quiet",
    ]
    call("train", *mine)
    for shape in ((60, 64), (60, 16)):
        np.save("mine.npy", generator.random(shape))
        printed = call("train", "--resume", "run", "--epochs", "2", "--quiet", code=2, capsys=capsys)
        assert printed.err.startswith("error: ")
        assert len(printed.err.strip().splitlines()) == 1


def test_nan_in_a_users_array(capsys):
    values = np.random.default_rng(0).random((30, 9))
    values[3, 4] = np.nan
    np.save("mine.npy", values)
    printed = call("train", "--dataset", "mine.npy", "--quiet", code=2, capsys=capsys)
    assert "NaN" in printed.err


@pytest.mark.parametrize("file", ["people.csv", "my rows.csv"])
def test_a_file_without_its_option_is_refused_with_the_option(capsys, file):
    printed = call("train", file, "--epochs", "1", code=2, capsys=capsys)
    assert printed.err.rstrip().endswith(f"for data, use --dataset {shlex.quote(file)}")
    for command in (["info", "run", file], ["reproduce", "table1", file]):  # their argument is no data
        assert "--dataset" not in call(*command, code=2, capsys=capsys).err


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # of Pyro, on some processors
def test_divergence_stops_with_advice_and_keeps_the_checkpoint(capsys):
    call("train", *SMALL, "--output", "run", "--quiet", "--rate-schedule", "constant")
    call("train", *SMALL, "--output", "wild", "--quiet", "--learning-rate", "1e30", code=1)
    printed = capsys.readouterr()
    assert "step" in printed.err
    assert "learning_rate" in printed.err


@pytest.mark.filterwarnings("default")
def test_offline_digits_stand_in_loudly_when_nothing_was_named(capsys, monkeypatch):
    from pyro_dvae.datasets import mnist
    from pyro_dvae.datasets.base import UnavailableError

    def unavailable(*args, **kwargs):
        raise UnavailableError("no network in tests")

    monkeypatch.setattr(mnist, "_fetch", unavailable)
    call("train", *SMALL[2:], "--output", "run", "--data-folder", "absent", "--epochs", "1")
    printed = capsys.readouterr()
    assert "NOT MNIST" in printed.err
    assert printed.err.count("no network in tests") == 1
    assert "NOT mnist" in printed.out
    for name in ("config.json", "results.json"):
        assert json.loads(Path("run", name).read_text())["data"]["substituted_for"] == "mnist"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "../shared/data/MNIST").exists(), reason="needs the real MNIST")
def test_real_mnist_reaches_a_known_bound():
    """Five epochs at the defaults and 5 % noise: -117.0 nats when measured; an untrained net has -543."""
    folder = (ROOT / "../shared/data").resolve()
    done = script(
        "--noise", "0.05", "--epochs", "5", "--data-folder", folder, "--output", "run", timeout=1800
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("run/results.json").read_text())["test_bound"]["mean"] > -118.5
