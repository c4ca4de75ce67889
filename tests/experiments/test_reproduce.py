"""Complete small experiments on the digits."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call

import pyro_dvae as dv
from pyro_dvae.engine import kernels
from pyro_dvae.errors import ProcessLostError
from pyro_dvae.jobs.executors import local
from pyro_dvae.jobs.executors.local import Local
from pyro_dvae.jobs.executors.run_progress import RunsProgress
from pyro_dvae.jobs.experiments import Case, by_batch, experiments, measures, one_run, plan, results, running
from pyro_dvae.jobs.experiments.by_batch import groups, perform_groups
from pyro_dvae.jobs.experiments.measures import MEASURES
from pyro_dvae.jobs.experiments.results import unpacked
from pyro_dvae.jobs.experiments.running import reproduce
from pyro_dvae.jobs.experiments.trained import TrainedPair
from pyro_dvae.training import many
from pyro_dvae.training.progress import NoProgress

QUIET = {"device": "cpu", "quiet": True}
TINY = {"dataset": "digits", "width": 8, "latent_size": 2}


def figures(rows):
    return {row["key"]: row["figures"] for row in rows}


def test_results_table_and_picture(small, tmp_path):
    planned = plan(small, seeds=1)
    outcome = reproduce(small, planned, tmp_path / "out", jobs=1, **QUIET)
    assert [row["key"] for row in outcome.rows] == [each.key for each in planned]
    assert not outcome.missing
    assert {path.name for path in outcome.files} == {"results.jsonl", "table.md", "picture.png"}
    assert not list((tmp_path / "out" / "checkpoints").glob("*"))
    row = outcome.rows[0]
    assert row["options"]["noise"] == 0.0
    assert row["seed"] == 0
    assert row["curve"]["epoch"] == [2, 3]  # every second, and the last
    assert row["best_epoch"] in (2, 3)
    assert row["figures"].keys() == {"bound", "training_bound"}
    assert row["versions"]["torch"] == torch.__version__
    text = json.dumps(row)
    assert str(tmp_path) not in text
    assert "data_folder" not in text


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("faster", [True, False])
def test_a_row_says_whether_its_products_were_rounded(small, tmp_path, monkeypatch, faster):
    monkeypatch.setattr(kernels, "pays", lambda: faster)
    for asked in (True, False):
        (planned, *_) = plan(small, seeds=1, overrides={"bfloat16": asked})
        row = one_run.perform(planned, tmp_path, torch.device("cpu"), NoProgress())
        assert row["bfloat16"] is (asked and faster)


def test_what_is_finished_is_not_run_again(small, tmp_path, monkeypatch):
    planned = plan(small, seeds=1)
    first = reproduce(small, planned[:2], tmp_path / "out", jobs=1, **QUIET)
    asked = []
    perform = by_batch.perform

    def counted(each, *rest):
        asked.append(each.name)
        return perform(each, *rest)

    monkeypatch.setattr(by_batch, "perform", counted)
    second = reproduce(small, planned, tmp_path / "out", jobs=1, **QUIET)
    assert asked == [planned[2].name]
    assert second.rows[:2] == first.rows
    third = reproduce(small, planned, tmp_path / "out", jobs=1, **QUIET)
    assert len(asked) == 1
    assert third.rows == second.rows
    beside = dataclasses.replace(small, name="beside")
    moved = reproduce(beside, plan(beside, seeds=1), tmp_path / "beside", jobs=1, **QUIET)
    assert len(asked) == 1
    assert figures(moved.rows) == figures(second.rows)


def test_cells_with_the_same_options_share_a_run(small, tmp_path):
    cells = [
        ("latents", "3"),
        ("latents", "2", {"latent_size": 2}),
        ("width", "16"),
        ("width", "8", {"width": 8}),
    ]
    own = dataclasses.replace(small, cases=tuple(Case(*cell) for cell in cells))
    outcome = reproduce(own, plan(own, seeds=1, epochs=1), tmp_path, jobs=1, **QUIET)
    assert [(row["row"], row["column"]) for row in outcome.rows] == [cell[:2] for cell in cells]
    assert outcome.rows[0]["figures"] == outcome.rows[2]["figures"]
    assert len(results.read(tmp_path)) == 3
    assert "3 runs of 1 epoch" in (tmp_path / "table.md").read_text()


OWN = {"binarisation": "none", "likelihood": "gaussian-columns", "noise_kind": "masking", "width": 4}


def of_file(small, **options):
    """Return the small experiment on the user's own data, and its run without noise."""
    own = dataclasses.replace(small, options={**OWN, "latent_size": 2, **options}, measures=())
    return own, plan(own, seeds=1, epochs=1)[:1]


def test_own_data_have_the_options_of_their_file(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).uniform(size=(40, 3))
    table = "\n".join(["a,b,kind", *(f"{a},{b},{int(c > 0.5)}" for a, b, c in values)])
    Path("rows.csv").write_text(table)
    _, (planned,) = of_file(small, dataset="rows.csv", drop="b", label_column="kind", scale="unit")
    setting = one_run.prepared(planned, tmp_path, torch.device("cpu"), NoProgress())
    expected = dv.load_dataset("rows.csv", drop=["b"], label_column="kind", scale="unit")
    assert torch.equal(setting.data.test, expected.test)
    assert setting.data.test.shape == (4, 1)
    options = {"likelihood": "table", "kinds": "kind=categorical", "noise_kind": "swap"}
    own, planned = of_file(small, dataset="rows.csv", **options)
    for jobs in (1, 2):
        (row,) = reproduce(own, planned, tmp_path / str(jobs) / "x", jobs=jobs, **QUIET).rows
        assert math.isfinite(row["figures"]["bound"]["mean"])
    # Another data set, to try it out, has no columns to drop.
    monkeypatch.setattr(running, "reproduce", lambda *given, **settings: running.Outcome(given[1], []))
    monkeypatch.setattr(running, "_closing", lambda outcome, folder: outcome.rows)
    where = {"seeds": 1, "epochs": 1, "only": (), "data_folder": "data", "bfloat16": False}
    tried = running.run(own, tmp_path, dataset="digits", **where)
    assert {(each.options.dataset, each.options.kinds) for each in tried} == {("digits", None)}


def test_own_data_that_have_changed_are_refused(small, tmp_path, monkeypatch):
    """One value of the test rows is enough; results are shown without the file."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    parts = {"train": rows[:20], "validation": rows[20:30], "test": rows[30:]}
    np.savez("rows.npz", **parts)
    own, planned = of_file(small, dataset="rows.npz")
    first = reproduce(own, planned, tmp_path / "out" / "small", jobs=1, **QUIET)
    assert figures(reproduce(own, planned, tmp_path / "out" / "small", jobs=1, **QUIET).rows) == figures(
        first.rows
    )
    parts["test"][2, 1] += 0.01
    np.savez("rows.npz", **parts)
    for name in ("small", "beside"):
        with pytest.raises(
            dv.DataError,
            match=r"rows\.npz has changed since runs of small were finished in .*out; restore it, or name",
        ):
            reproduce(own, planned, tmp_path / "out" / name, jobs=1, **QUIET)
    again = reproduce(own, planned, tmp_path / "new" / "small", jobs=1, **QUIET)
    assert figures(again.rows) != figures(first.rows)
    Path("rows.npz").unlink()
    shown = reproduce(own, planned, tmp_path / "out" / "small", jobs=1, train=False, **QUIET)
    assert figures(shown.rows) == figures(first.rows)


def test_a_run_on_own_data_starts_in_any_working_directory(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(40, 3)))
    own, planned = of_file(small, dataset="rows.npy")

    class Elsewhere:
        def submit(self, work, each):
            done, elsewhere = Future(), tmp_path / "elsewhere"
            elsewhere.mkdir()
            monkeypatch.chdir(elsewhere)
            done.set_result(work(each))
            monkeypatch.chdir(tmp_path)
            return done

    outcome = reproduce(own, planned, "out", executor=Elsewhere(), **QUIET)
    assert [row["key"] for row in outcome.rows] == [planned[0].key]
    assert (tmp_path / "out" / "table.md").exists()
    assert of_file(small, dataset=str(tmp_path / "rows.npy"))[1][0].key == planned[0].key


@pytest.mark.parametrize(
    ("measure", "dataset", "message"),
    [
        ("manifold", "digits", "manifold needs latent_size 2, got 3"),
        ("samples", "rows.npz", "samples draws images, but the rows of rows.npz are not images"),
        ("reconstruction", "rows.npz", "reconstruction draws images"),
    ],
)
def test_a_run_that_cannot_be_measured_is_refused_before_its_training(
    small, tmp_path, monkeypatch, measure, dataset, message
):
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", rows=np.random.default_rng(0).normal(size=(40, 3)))
    options = {"dataset": dataset, "binarisation": "none", "latent_size": 3}
    own = dataclasses.replace(small, options=options, measures=(measure,))
    with pytest.raises(dv.InputError, match=f"measures: {message}"):
        reproduce(own, plan(own, seeds=1)[:1], tmp_path / "out", jobs=1, **QUIET)
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.slow
def test_every_executor_gives_what_one_process_gives(small, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(dv.__file__).parents[1]))
    planned = plan(small, seeds=1)[:2]
    expected = figures(reproduce(small, planned, tmp_path / "one" / "x", jobs=1, **QUIET).rows)
    for name, options in {"local": None, "submitit": {"cluster": "local"}, "dask": None}.items():
        where = {"executor": name, "executor_options": options, "jobs": 2}
        outcome = reproduce(small, planned, tmp_path / name / "x", **where, **QUIET)
        assert figures(outcome.rows) == expected, name
        assert {row["threads"] for row in outcome.rows} == {1}
        kept = {path.name for path in (tmp_path / name / "x").iterdir()} - {"checkpoints", ".lock"}
        assert kept - {"jobs"} == {"results.jsonl", "table.md", "picture.png"}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.slow
def test_one_batched_computation_gives_what_each_gives_alone(small, tmp_path):
    # The recorded step runs operation by operation; other tests cover the compiler.
    compiled = plan(small, overrides={"compiled": True})
    alone = reproduce(small, compiled, tmp_path / "a" / "x", jobs=1, **QUIET)
    rows = []
    watch = RunsProgress(6, quiet=True)
    grouped = groups(plan(small), 40)
    diverged = perform_groups(grouped, tmp_path / "b", torch.device("cpu"), watch, rows.append)
    assert not diverged
    expected = figures(alone.rows)
    assert len(rows) == len(expected) == 6
    for row in rows:
        for name, figure in row["figures"].items():
            assert figure["mean"] == pytest.approx(expected[row["key"]][name]["mean"], abs=2e-3)
    assert not list((tmp_path / "b" / "checkpoints").glob("*.safetensors"))


@pytest.mark.usefixtures("interpreted")
def test_a_kill_while_a_group_is_measured_loses_no_training(small, tmp_path, monkeypatch):
    (group,) = groups(plan(small, seeds=2, epochs=1, only=("0 %",)), 40)
    assert len(group) == 2
    rows, watch, measured = [], RunsProgress(2, quiet=True), by_batch.measured

    def keep(row):
        """Remove the checkpoints of a finished run, as ``reproduce`` does."""
        rows.append(row)
        for part in (tmp_path / "checkpoints").glob(f"*{row['key']}*"):
            part.unlink()

    def killed(each, *rest):
        if each is group[1]:
            raise KeyboardInterrupt
        return measured(each, *rest)

    def perform():
        return perform_groups([group], tmp_path, torch.device("cpu"), watch, keep)

    monkeypatch.setattr(by_batch, "measured", killed)
    with pytest.raises(KeyboardInterrupt):
        perform()
    assert not rows
    monkeypatch.setattr(by_batch, "measured", measured)
    monkeypatch.setattr(many.ManyTraining, "epoch", lambda training: pytest.fail("it is trained again"))
    assert perform() == []
    assert [row["key"] for row in rows] == [each.key for each in group]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_groups_are_of_one_structure(small):
    planned = plan(small, seeds=3)
    sizes = [[each.case.name for each in group] for group in groups(planned, 40)]
    assert sizes == [["VAE, 0 %"] * 3, ["VAE, 5 %"] * 3, ["VAE, K = 2, 5 %"] * 3]
    assert [len(group) for group in groups(planned, 2)] == [2, 1, 2, 1, 2, 1]
    levels = plan(experiments()["table1"], seeds=2, only=("K = 1, 1 layer",))
    assert [len(group) for group in groups(levels, 40)] == [2, 6]
    other = plan(experiments()["autoencoder"], only=("autoencoder, 2",))
    assert [len(group) for group in groups(other, 40)] == [1, *[1] * (len(other) - 1)]


QUICK = ("table1", "gru")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(experiments())],
)
def test_every_experiment_runs(name, tmp_path):
    """One run of each program and kind of option, for an epoch."""
    declared = experiments()[name]
    seen, chosen = set(), []
    for each in plan(declared, seeds=1, epochs=1, overrides=TINY | {"batch_size": 400}):
        kind = (each.case.program, each.options.bound, each.options.learn_noise, each.options.noise_pattern)
        if kind not in seen:
            seen.add(kind)
            chosen.append(each)
    outcome = reproduce(declared, chosen, tmp_path / "out", jobs=1, **QUIET)
    assert len(outcome.rows) == len(chosen)
    assert "not comparable" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "picture.png").stat().st_size > 5_000


def test_the_rivals_of_noise_train(tmp_path):
    """Reverse half-asleep does not change the decoder; consistency trains like any bound."""
    planned = plan(experiments()["gaps"], seeds=1, epochs=1, only=("1,000",), overrides=TINY)
    programs = {each.case.program: each for each in planned}
    refitted = programs["dvae-refitted"]
    setting = one_run.prepared(refitted, tmp_path, torch.device("cpu"), NoProgress())
    pair = one_run.build(refitted, setting)
    before = [each.detach().clone() for each in (*pair.model.parameters(), *pair.guide.encoder.parameters())]
    setting.fit(pair)
    after = [*pair.model.parameters(), *pair.guide.encoder.parameters()]
    count = len(list(pair.model.parameters()))
    assert [torch.equal(*each) for each in zip(before, after, strict=True)][:count] == [True] * count
    assert not torch.equal(before[count], after[count])
    consistent = dataclasses.replace(programs["dvae-consistent"], measures=())
    row = one_run.perform(consistent, tmp_path, torch.device("cpu"), NoProgress())
    assert math.isfinite(row["figures"]["bound"]["mean"])


def test_gaps_equal_those_of_inference_gaps(small, tmp_path, monkeypatch):
    for name, value in (("GAP_DATA", 3), ("GAP_SAMPLES", 50), ("GAP_STEPS", 5)):
        monkeypatch.setattr(measures, name, value)
    planned = plan(small, seeds=1)[1]
    setting = one_run.prepared(planned, tmp_path, torch.device("cpu"), NoProgress())
    pair = one_run.build(planned, setting)
    subject = TrainedPair(*pair.measured, setting.corruption, setting.data, planned.options, tmp_path / "x")
    found = MEASURES["inference-gaps"](subject)
    expected = dv.inference_gaps(
        pair.model,
        pair.guide,
        subject.test[:3],
        refine=dv.Refinement(num_steps=5),
        num_samples=50,
        seed=subject.seed("gaps"),
        progress=False,
    )
    values = {
        "test_log_likelihood": expected.log_likelihood,
        "test_approximation_gap": expected.approximation(),
        "test_approximation_gap_full": expected.approximation("full"),
        "test_amortisation_gap": expected.amortisation(),
    }
    for name, each in values.items():
        assert found[name]["mean"] == pytest.approx(float(each.mean()), rel=1e-6)
        np.testing.assert_allclose(unpacked(found[name]["of_rows"]), each.numpy(), rtol=1e-3)
    assert found.keys() == {*values, *(name.replace("test", "training") for name in values)}
    assert found.keys() == {*MEASURES["inference-gaps"].figures}


@pytest.mark.slow
def test_measures_equal_those_of_the_evaluation(small, tmp_path):
    planned = plan(small, seeds=1)[1]
    setting = one_run.prepared(planned, tmp_path, torch.device("cpu"), NoProgress())
    pair = one_run.build(planned, setting)
    setting.fit(pair)
    subject = TrainedPair(*pair.measured, setting.corruption, setting.data, planned.options, tmp_path / "x")
    many = dv.TraceDenoising_ELBO(num_corruptions=400, max_plate_nesting=1)
    expected = dv.evaluate_bound(pair.model, pair.guide, subject.test, loss=many, seed=1)
    found = MEASURES["bound"](subject)["bound"]
    assert found["mean"] == pytest.approx(expected.mean, abs=0.05)
    assert found["standard_error"] == pytest.approx(expected.standard_error, rel=0.05)
    of = MEASURES["bounds"](subject)
    assert of["semi_implicit_10_clean"]["mean"] == pytest.approx(of["dvae_clean"]["mean"], abs=1e-4)
    assert of["dvae_clean"]["mean"] < of["diwae_5_clean"]["mean"]
    likelihood = MEASURES["likelihood"](subject)["log_likelihood"]
    assert of["diwae_5_clean"]["mean"] < likelihood["mean"]
    assert likelihood["samples"] >= 200
    assert MEASURES["noise"](subject)["noise"]["mean"] == pytest.approx(0.05)
    assert 0 <= MEASURES["units"](subject)["active_units"]["mean"] <= 3
    for name in ("bound", "training", "bounds", "likelihood", "reconstruction", "units", "noise", "samples"):
        assert MEASURES[name](subject).keys() == {*MEASURES[name].figures}
    rows = subject.data.visit(subject.data.train)
    error = dv.evaluation.reconstruction_error(pair.model, pair.guide, rows).from_mean.squared.mean
    measured = MEASURES["training-error"](subject)["training_squared_error_mean_code"]
    assert measured["mean"] == pytest.approx(error, rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Encountered NaN")  # of Pyro, on some processors
def test_a_run_that_diverges_is_reported_and_the_others_continue(small, tmp_path):
    wild = dataclasses.replace(
        small,
        cases=(
            dataclasses.replace(small.cases[0], options={"noise": 0.0, "learning_rate": 1e30}),
            small.cases[1],
        ),
    )
    for jobs in (1, 2):
        outcome = reproduce(wild, plan(wild, seeds=1), tmp_path / str(jobs) / "x", jobs=jobs, **QUIET)
        assert [row["column"] for row in outcome.rows] == ["5 %"]
        assert [each.case.column for each in outcome.missing] == ["0 %"]
        assert "diverged in epoch" in outcome.diverged[0]


def test_a_refused_run_ends_the_others(small, tmp_path):
    for jobs in (1, 2):
        planned = plan(small, seeds=1, overrides={"data_folder": str(tmp_path), "dataset": "mnist.csv"})
        with pytest.raises(dv.InputError, match=r"mnist\.csv"):
            reproduce(small, planned, tmp_path / str(jobs) / "x", jobs=jobs, **QUIET)


def test_a_lost_process_is_reported(small, tmp_path, monkeypatch):
    class Killed(Local):
        def submit(self, function, planned):
            handle = super().submit(function, planned)
            os.kill(handle.process.pid, signal.SIGKILL)
            return handle

    monkeypatch.setattr(local, "Local", Killed)
    lost = r"worker of VAE, .* was lost 3 times: .*ended with code -9; the same command goes on"
    with pytest.raises(ProcessLostError, match=lost):
        reproduce(small, plan(small, seeds=1), tmp_path / "out", jobs=2, **QUIET)


@pytest.mark.slow
def test_a_killed_workers_run_resumes_from_its_checkpoint(small, tmp_path, monkeypatch, capsys):
    planned = plan(small, seeds=1, epochs=60)[:1]
    folder = tmp_path / "two" / "x"
    started = []

    class Watched(Local):
        def submit(self, function, planned):
            started.append(super().submit(function, planned))
            return started[-1]

    def kill():
        while not list((folder / "checkpoints").glob("*.safetensors")):
            time.sleep(0.02)
        os.kill(started[0].process.pid, signal.SIGKILL)

    expected = figures(reproduce(small, planned, tmp_path / "one" / "x", jobs=1, **QUIET).rows)
    monkeypatch.setenv("PYTHONPATH", str(Path(dv.__file__).parents[1]))
    killer = threading.Thread(target=kill)
    killer.start()
    outcome = reproduce(small, planned, folder, executor=Watched(), device="cpu")
    killer.join()
    assert len(started) == 2
    assert figures(outcome.rows) == expected
    assert "ended with code -9" in capsys.readouterr().err


LONG = ["reproduce", "estimators", "--dataset", "digits", "--epochs", "40", "--jobs", "2", "--device", "cpu"]
LONG += ["--only", "10 latents"]


@pytest.mark.slow
def test_stopped_and_gone_on_equals_uninterrupted(tmp_path):
    command = [sys.executable, "-c", "from pyro_dvae.cli import main; main()", *LONG]
    process = subprocess.Popen([*command, "--output", "cut"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    folder = tmp_path / "cut" / "estimators"
    while not list((folder / "checkpoints").glob("*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert "continue with: pyro-dvae reproduce estimators" in errors
    assert not results.read(folder)
    for name in ("cut", "whole"):
        again = [*command, "--output", name, "--quiet"]
        done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    cut, whole = (results.read(tmp_path / name / "estimators") for name in ("cut", "whole"))
    assert figures(cut) == figures(whole)
    assert len(cut) == 2


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call("reproduce", "--list")
    assert "table1 " in capsys.readouterr().out
    tiny = ["--dataset", "digits", "--epochs", 1, "--seeds", 1, "--jobs", 1, "--quiet"]
    call("reproduce", "estimators", *tiny, "--only", "10 latents")
    shown = capsys.readouterr()
    assert "| L^A, sampled | ours |" in shown.out
    assert "reproduction/estimators/results.jsonl" in shown.out
    assert not shown.err
    call("reproduce", "estimators", *tiny, "--table-only")
    assert "4 runs are not finished" in capsys.readouterr().out
    table = (tmp_path / "reproduction/estimators/table.md").read_text()
    more = [
        "--dataset",
        "digits",
        "--epochs",
        1,
        "--jobs",
        1,
        "--quiet",
        "--only",
        "10 latents",
        "--seeds",
        2,
    ]
    call("reproduce", "estimators", *more)
    assert "mean of 2 runs" in capsys.readouterr().out
    call("reproduce", "estimators", *tiny, "--table-only")
    assert "mean of 2 runs" in capsys.readouterr().out
    table = (tmp_path / "reproduction/estimators/table.md").read_text()
    call("reproduce", "estimators", *tiny, "--only", "2 latents", "--table-only")
    assert "2 runs are not finished" in capsys.readouterr().out
    assert (tmp_path / "reproduction/estimators/table.md").read_text() == table  # with what was there
    call("reproduce", "depth", "--table-only")
    assert "nothing is finished in reproduction/depth" in capsys.readouterr().out


def test_bad_input_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["tabel1"], "did you mean 'table1'"),
        (["table1", "--only", "K = 7"], "matches no case of table1"),
        (["table1", "--only", " "], "only: expected words of a row or column"),
        (["table1", "--dataset", "mnits", "--table-only"], "did you mean 'mnist'"),
        (["table1", "--epochs", "0"], "--epochs"),
        (["table1", "--data-folder", "nowhere"], "mnist"),
        (["table1", "--device", "cuda:99"], "device"),
    ):
        call("reproduce", *arguments, "--jobs", 1, "--quiet", code=2)
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
