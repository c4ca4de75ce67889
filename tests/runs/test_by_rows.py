"""Likelihoods and imputations of many rows in parts, on executors, equal those of one process."""

import csv
import json
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call

import pyro_dvae as dv
from pyro_dvae.interrupts import Stopped
from pyro_dvae.jobs import applying, evaluate
from pyro_dvae.jobs.applying import apply
from pyro_dvae.jobs.by_rows import PartOfRows, Workers, parts_of
from pyro_dvae.jobs.evaluate import evaluate_run
from pyro_dvae.jobs.options import EvaluationOptions

EXECUTORS = {"local": {}, "submitit": {"cluster": "local"}, "dask": {}}
FEW = EvaluationOptions(samples=500, annealed=0, simulated=0, no_compile=True)


class Here:
    """An executor that does the work at once, in this process; its ``fails``-th piece is not done."""

    def __init__(self, fails=None):
        self.fails, self.done_here = fails, []

    def submit(self, function, planned):
        if len(self.done_here) == self.fails:
            raise Stopped
        self.done_here.append(planned.key)
        return SubmittedWork(function(planned))


class SubmittedWork:
    def __init__(self, found):
        self.result = lambda: found

    def done(self):
        return True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on a table of 600 rows, the first of them, and these with gaps."""
    folder = tmp_path_factory.mktemp("by_rows")
    draws = np.random.default_rng(0).normal(size=(600, 3))
    table = draws @ np.array([[1, 0.8, 0.1], [0, 0.6, 0.1], [0, 0, 0.9]])
    for name, gaps, count in (("whole", False, 600), ("few", False, 90), ("gaps", True, 90)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "arr_0", "reliable"])  # also words of NumPy's archives
            writer.writerows(
                ["" if gaps and (n + k) % 4 == 0 else f"{value:.4f}" for k, value in enumerate(row)]
                for n, row in enumerate(table[:count])
            )
    options = ["--epochs", "3", "--width", "8", "--latent-size", "2", "--importance-samples", "0", "--quiet"]
    call("train", "--dataset", folder / "whole.csv", *options, "--output", folder / "run")
    return folder


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(evaluate, "ROWS_OF_A_PART", 20)
    monkeypatch.setattr(applying, "ROWS_OF_A_PART", 30)
    monkeypatch.setenv("PYTHONPATH", str(Path(dv.__file__).parents[1]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def figures(content):
    return {key: content[key] for key in ("log_likelihood", "bound_parts", "bits_per_dimension")}


@pytest.mark.slow
def test_an_evaluation_in_parts_equals_one_process_and_resumes(made, tmp_path):
    whole = evaluate_run(made / "run", FEW, output=tmp_path / "whole", quiet=True)
    place = {"output": tmp_path / "parts", "quiet": True}
    with pytest.raises(evaluate.EvaluationStopped) as stopped:
        evaluate_run(made / "run", FEW, workers=Workers(Here(fails=1), {}), **place)
    assert stopped.value.checkpoint == tmp_path / "parts" / "parts"
    assert [path.name for path in (tmp_path / "parts" / "parts").glob("*.safetensors")] == [
        "1-of-3.safetensors"
    ]
    found = evaluate_run(made / "run", FEW, workers=Workers(Here(), {}), **place)
    assert figures(found) == figures(whole)
    assert not (tmp_path / "parts" / "parts").exists()


def test_a_worker_of_an_evaluation_starts_in_any_working_directory(made, tmp_path, monkeypatch):
    class Elsewhere(Here):
        def submit(self, function, planned):
            monkeypatch.chdir(tmp_path)
            found = super().submit(function, planned)
            monkeypatch.chdir(made)
            return found

    monkeypatch.chdir(made)
    place = {"output": tmp_path / "parts", "dataset": "whole.csv", "data_folder": "data", "quiet": True}
    found = evaluate_run("run", FEW, workers=Workers(Elsewhere(), {}), **place)
    assert len(found["log_likelihood"]["per_datum"]["log_likelihood"]) == 60


def told_of(do, *arguments, **options):
    """Call a function, and return its warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        do(*arguments, **options)
    return [str(each.message) for each in told]


def test_scores_and_imputations_in_parts_equal_one_process_and_resume(made, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["pyro_dvae.conditioning.condition"], "_ROWS", 30)
    settings = {"samples": 30, "seed": 3}
    for verb, file in (("score", "few.csv"), ("impute", "gaps.csv")):
        do = partial(apply, verb, made / "run", made / file, **settings)
        told = told_of(do, tmp_path / "whole.csv")
        assert len(told) == (verb == "impute")
        assert all("(of 67 with gaps) are not reliable" in each for each in told)
        with pytest.raises(Stopped):
            do(tmp_path / "parts.csv", workers=Workers(Here(fails=1), {}))
        rest = Here()
        assert told_of(do, tmp_path / "parts.csv", workers=Workers(rest, {})) == told
        assert rest.done_here == ["2-of-3", "3-of-3"]
        assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        assert not list(tmp_path.glob("*.parts"))


def test_parts_stay_until_the_table_is_written_and_a_damaged_one_is_computed_again(
    made, tmp_path, monkeypatch
):
    do = partial(apply, "score", made / "run", made / "few.csv", samples=30, seed=3)
    do(tmp_path / "whole.csv")

    def full(*arguments):
        raise dv.InputError("output: no space left")

    with monkeypatch.context() as patch:
        patch.setattr(applying, "write_table", full)
        with pytest.raises(dv.InputError, match="no space left"):
            do(tmp_path / "parts.csv", workers=Workers(Here(), {}))
    (part,) = (tmp_path / "parts.csv.parts").glob("*-2-of-3.npz")
    part.write_bytes(part.read_bytes()[:-40])
    rest = Here()
    do(tmp_path / "parts.csv", workers=Workers(rest, {}))
    assert rest.done_here == ["2-of-3"]
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "parts.csv.parts").exists()


def test_a_stopped_command_says_that_its_repetition_continues(made, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise Stopped

    monkeypatch.setattr(Workers, "perform", stop)
    arguments = ["score", made / "run", made / "few.csv", "--output", tmp_path / "a.csv"]
    assert call(*arguments, "--executor", "local", code=130, capsys=capsys).err.endswith(
        f"stopped; continue with: pyro-dvae {' '.join(map(str, arguments))} --executor local\n"
    )


def test_two_commands_do_not_work_on_the_same_parts(made, tmp_path):
    do = partial(apply, "score", made / "run", made / "few.csv", tmp_path / "parts.csv", samples=30, seed=3)

    class Twice(Here):
        def submit(self, function, planned):
            with pytest.raises(dv.InputError, match="output: another process is writing to"):
                do(workers=Workers(Here(), {}))
            return super().submit(function, planned)

    do(workers=Workers(Twice(), {}))
    assert [path.name for path in tmp_path.iterdir()] == ["parts.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXECUTORS)
def test_rows_run_on_every_executor(name, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(applying, "ROWS_OF_A_PART", 300)  # of 600 rows
    there = ["--executor", name, "--jobs", "2"]
    for option, value in EXECUTORS[name].items():
        there += ["--executor-option", f"{option}={value}"]
    score = ["score", str(made / "run"), str(made / "whole.csv"), "--samples", "30"]
    for place, where in (("here", []), ("there", there)):
        call(*score, *where, "--output", f"{place}.csv")
    assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()


@pytest.mark.slow
def test_the_command_evaluates_in_parts(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "ROWS_OF_A_PART", 30)  # of 60 rows
    command = ["evaluate", str(made / "run"), "--samples", "50", "--annealed", "0", "--simulated", "0"]
    for place, where in (("here", []), ("there", ["--executor", "local", "--jobs", "2"])):
        call(*command, *where, "--output", place)
    here, found = (json.loads(Path(place, "evaluation.json").read_text()) for place in ("here", "there"))
    assert figures(here) == figures(found)


def test_parts_do_not_depend_on_the_workers():
    assert parts_of(0, 200) == [PartOfRows(0, 1)]
    assert len(parts_of(10_000, 200)) == 50
    assert len(parts_of(10**6, 200)) == 64
    assert [each.key for each in parts_of(401, 200)] == ["1-of-3", "2-of-3", "3-of-3"]


def test_options_of_an_executor_need_one(capsys):
    score = ["score", "run", "x.csv", "--executor-option", "a=1"]
    for arguments in (["evaluate", "run", "--jobs", "2"], score):
        call(*arguments, code=2)
        assert "need --executor" in capsys.readouterr().err
