"""A run folder is usable or refused in one line, whatever wrote it and however its process ended."""

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from pyro_dvae import __version__
from pyro_dvae.checkpoint import load_checkpoint, save_checkpoint
from pyro_dvae.cli import main
from pyro_dvae.datasets import load_dataset as load
from pyro_dvae.errors import InputError
from pyro_dvae.ownership import own

TINY = ["--dataset", "digits", "--width", "3", "--latent-size", "2", "--decoder-layers", "1", "--quiet"]
TINY += ["--batch-size", "400", "--importance-samples", "0", "--epochs", "2", "--rate-schedule", "constant"]


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    commands.call("train", *TINY, "--output", folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def same_weights(one, other):
    left, right = (load_file(folder / "checkpoint.safetensors") for folder in (one, other))
    names = [name for name in left if name.startswith(("parameters/", "best/", "optimizer/", "rng/"))]
    assert len(names) > 10
    return left.keys() == right.keys() and all(left[n].tobytes() == right[n].tobytes() for n in names)


def snapshot(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Without a first checkpoint


def test_a_run_that_never_saved_begins_again_and_ends_as_it_would_have(run, trained, call):
    for name in ("checkpoint.safetensors", "metrics.jsonl", "results.json"):
        (run / name).unlink()
    (run / ".checkpoint.safetensors.0000.partial").write_bytes(b"half")
    assert "begins at the beginning" in call("info", run).out
    assert "no checkpoint yet" in call("sample", run, code=2).err
    call("train", "--resume", run, "--quiet")
    assert same_weights(run, trained)
    assert not list(run.glob(".*.partial"))


def test_other_data_are_refused_also_without_a_checkpoint(run, call):
    (run / "checkpoint.safetensors").unlink()
    config = json.loads((run / "config.json").read_text())
    config["data"]["sizes"][0] -= 1
    (run / "config.json").write_text(json.dumps(config))
    assert "data: sizes was" in call("train", "--resume", run, "--quiet", code=2).err


# One owner


def test_a_second_process_is_refused_and_readers_are_not(run, call):
    held = own("output", run)
    before = snapshot(run)
    printed = call("train", "--resume", run, "--epochs", "3", "--quiet", code=2)
    assert f"another process is writing to {run}" in printed.err
    call("train", *TINY, "--output", run, code=2)
    assert snapshot(run) == before
    call("info", run)
    call("sample", run, "--count", "2", "--output", "draws.npy")
    held.release()
    call("train", "--resume", run, "--epochs", "3", "--quiet")


def test_a_fresh_run_does_not_enter_a_folder_that_another_one_is_making(tmp_path, call):
    (tmp_path / "new").mkdir()
    held = own("output", tmp_path / "new")
    assert "another process" in call("train", *TINY, "--output", "new", code=2).err
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
    held.release()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_the_lock_dies_with_its_process(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom pyro_dvae.ownership import own\n"
        "lock = own('output', pathlib.Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process"):
            own("output", tmp_path)
        process.send_signal(signal.SIGKILL)
    own("output", tmp_path).release()


def test_a_failed_run_gives_its_folder_back(run, call):
    call("train", "--resume", run, "--epochs", "1", "--quiet", code=2)
    call("train", "--resume", run, "--epochs", "2", "--quiet")


# Going on


def test_fewer_epochs_than_done_are_refused_and_more_are_recorded(run, call):
    before = snapshot(run)
    assert "2 are done in" in call("train", "--resume", run, "--epochs", "1", "--quiet", code=2).err
    assert snapshot(run) == before
    call("train", "--resume", run, "--epochs", "3", "--quiet")
    assert "3 of 3 epochs" in call("info", run).out
    assert json.loads((run / "config.json").read_text())["options"]["epochs"] == 3
    call("train", "--resume", run, "--quiet")


def test_own_data_are_found_from_elsewhere_and_may_move(tmp_path, monkeypatch, call):
    np.save("mine.npy", np.random.default_rng(0).random((60, 4), dtype=np.float32))
    call("train", *TINY, "--dataset", "mine.npy", "--output", "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    call("train", "--resume", "../run", "--epochs", "3", "--quiet")
    (tmp_path / "mine.npy").rename(tmp_path / "elsewhere" / "mine.npy")
    few = ["--samples", "20", "--annealed", "0", "--simulated", "0", "--no-compile", "--quiet"]
    told = "mine.npy: no such file; if it has moved, give its place as the data set (--dataset)"
    assert told in call("evaluate", "../run", *few, code=2).err
    assert told in call("train", "--resume", "../run", "--epochs", "4", "--quiet", code=2).err
    call("evaluate", "../run", *few, "--dataset", "mine.npy")
    call("train", "--resume", "../run", "--epochs", "4", "--dataset", "mine.npy", "--quiet")
    np.save("mine.npy", np.zeros((60, 4), dtype=np.float32))
    assert "different values" in call("train", "--resume", "../run", "--epochs", "5", "--quiet", code=2).err


def test_a_folder_removed_while_running_is_not_made_again(run, call, monkeypatch):
    from pyro_dvae.training.trainer import Trainer

    step = Trainer.step

    def removing(trainer, x):
        shutil.rmtree(run, ignore_errors=True)
        return step(trainer, x)

    monkeypatch.setattr(Trainer, "step", removing)
    printed = call("train", "--resume", run, "--epochs", "3", "--quiet", code=2)
    assert "cannot write" in printed.err
    assert not run.exists()


def test_verify_says_whether_the_bits_are_the_same(run, call):
    before = snapshot(run)
    assert "the same bits: the losses of the first 4 steps" in call("verify", run).out
    assert snapshot(run) == before
    tensors, state = load_checkpoint(run / "checkpoint.safetensors")
    state["history"]["first_losses"][2] = np.nextafter(state["history"]["first_losses"][2], 0)
    save_checkpoint(run / "checkpoint.safetensors", tensors, state)
    assert "part at step 3 of 4" in call("verify", run, code=1).out
    state["history"]["first_losses"] = []
    save_checkpoint(run / "checkpoint.safetensors", tensors, state)
    assert "no losses of the first steps" in call("verify", run, code=2).err


def test_verify_repeats_the_options_as_they_are_stored(tmp_path, call):
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.random((30, 4)))  # by the values: continuous-bernoulli, and another number of epochs
    given = ["--dataset", "x.npy", "--likelihood", "gaussian", *TINY[2:], "--epochs", "50"]
    call("train", *given, "--noise-schedule", "linear", "--output", "run")
    assert "the same bits" in call("verify", "run").out
    np.save("x.npy", rng.random((30, 4)))
    assert "x.npy has the size of the run's data, but different values" in call("verify", "run", code=2).err


def test_verify_loads_a_set_that_stood_in_by_its_own_name(run, call, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    config["options"]["dataset"], config["data"]["substituted_for"] = None, "mnist"
    (run / "config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr(
        "pyro_dvae.jobs.data.load_dataset", lambda name, *a, **k: asked.append(name) or load(name)
    )
    assert "the same bits" in call("verify", run).out
    assert asked == ["digits"]


# What others wrote

STRANGE = [None, "text", 7, -1, 10**400, 1.5, True, [], {}, [None], {"a": 1}, "\x1b[31m$\\frac$"]


def places(content, path=()):
    """Yield the path of every value in nested records."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(content, path, value):
    made = copy.deepcopy(content)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_strange_json_is_refused_in_one_line_or_read(name, run, capsys):
    content = json.loads((run / name).read_text())
    endings = set()
    for path in places(content):
        for value in (KeyError, *STRANGE):
            (run / name).write_text(json.dumps(changed(content, path, value)))
            resume = ["train", "--resume", str(run), "--epochs", "1", "--quiet"]
            for command in (["info", str(run)], resume):
                if command[0] == "train" and (name != "config.json" or path[0] != "options"):
                    continue
                with pytest.raises(SystemExit) as ended:
                    main(command)
                printed = capsys.readouterr()
                assert ended.value.code in (0, 2), (path, value)
                assert "\x1b" not in printed.out + printed.err
                if ended.value.code == 2:
                    assert printed.err.startswith("error: ")
                    assert len(printed.err.splitlines()) == 1
                endings.add(ended.value.code)
    assert 2 in endings


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1" * 5000, '{"a":' * 100_000, '{"options": ' + "9" * 5000 + "}", "\x00", "NaN"],
)
def test_damaged_json(text, run, call):
    for name in ("config.json", "results.json"):
        kept = (run / name).read_text()
        (run / name).write_text(text)
        assert name in call("info", run, code=2).err
        (run / name).write_text(kept)
    (run / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not UTF-8" in call("info", run, code=2).err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_in_a_run_folder_are_refused(run, call):
    for name in ("config.json", "results.json", "checkpoint.safetensors"):
        kept = (run / name).read_bytes()
        (run / name).unlink()
        os.mkfifo(run / name)
        assert "a pipe" in call("info", run, code=2).err
        (run / name).unlink()
        (run / name).write_bytes(kept)


def test_folders_of_other_versions_load_or_name_their_version(run, call):
    config = json.loads((run / "config.json").read_text())
    del config["options"]["validate_every"]
    (run / "config.json").write_text(json.dumps(config))
    assert "option 'validate_every' is missing" in call("info", run, code=2).err
    data, config["data"] = config["data"], {}
    (run / "config.json").write_text(json.dumps(config))
    assert f"another state of pyro_dvae {__version__}: data." in call("info", run, code=2).err
    config["data"] = data
    config["versions"]["pyro_dvae"] = "0.0.7"
    (run / "config.json").write_text(json.dumps(config))
    assert "2 of 2 epochs" in call("info", run).out
    call("sample", run, "--count", "2")
    config["options"]["flavour"] = "sweet"
    (run / "config.json").write_text(json.dumps(config))
    assert "written by pyro_dvae 0.0.7" in call("info", run, code=2).err
    del config["data"]["factor"]
    (run / "config.json").write_text(json.dumps(config))
    assert "written by pyro_dvae 0.0.7, this is" in (error := call("info", run, code=2).err)
    assert "data.factor is missing" in error


def test_a_run_of_an_older_version_resumes(run, call):
    config = json.loads((run / "config.json").read_text())
    tensors, state = load_checkpoint(run / "checkpoint.safetensors")
    del config["options"]["noise_pattern"], state["config"]["noise_pattern"], state["history"]["first_losses"]
    config["versions"]["pyro_dvae"] = "0.0.7"
    (run / "config.json").write_text(json.dumps(config))
    save_checkpoint(run / "checkpoint.safetensors", tensors, state)
    call("train", "--resume", run, "--epochs", "3", "--quiet")
    call("train", "--resume", run, "--epochs", "4", "--quiet")
    assert "4 of 4 epochs" in call("info", run).out


PARTS = 9


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_forged_checkpoints_are_refused(part, run, call, monkeypatch):
    monkeypatch.setattr("pyro_dvae.jobs.ending.draw_pictures", lambda *arguments: [])
    path = run / "checkpoint.safetensors"
    tensors, state = load_checkpoint(path)
    others = itertools.cycle((None, "text", [1]))
    for place in list(places(state))[part::PARTS]:
        for value in (KeyError, next(others)):
            save_checkpoint(path, tensors, changed(state, place, value))
            resume = ["train", "--resume", run, "--epochs", "2", "--quiet"]
            for command in [["info", run], resume] if value is KeyError else [["info", run]]:
                with pytest.raises(SystemExit) as ended:
                    main([str(each) for each in command])
                assert ended.value.code in (0, 2), (place, value)
            save_checkpoint(path, tensors, state)
    for name in [each for each in tensors if not each.startswith(("optimizer/", "best/"))][part::PARTS]:
        save_checkpoint(path, {key: each for key, each in tensors.items() if key != name}, state)
        with pytest.raises(SystemExit) as ended:
            main(["train", "--resume", str(run), "--epochs", "2", "--quiet"])
        assert ended.value.code in (0, 2), name
    assert load_tensors(path)


# Numbers out of range

HUGE = {
    "--seed": (2**32, 2**63, 10**400),
    "--width": (10**9, 2**63),
    "--latent-size": (10**9,),
    "--corruptions": (10**9,),
    "--particles": (10**9,),
    "--importance-samples": (10**9,),
    "--epochs": (10**30,),
    "--noise": ("1e400",),
}


@pytest.mark.parametrize("option", HUGE)
def test_huge_numbers_are_refused_before_anything_is_written(option, tmp_path, call):
    for value in HUGE[option]:
        assert (
            option[2:].replace("-", "_") in call("train", *TINY, option, value, "--output", "new", code=2).err
        )
    assert not list(tmp_path.iterdir())


def test_a_run_beyond_the_memory_is_refused(tmp_path, monkeypatch, call):
    monkeypatch.setattr("pyro_dvae.jobs.parts.machine_memory", lambda: 2**20)
    for option, value in (("--width", 999), ("--corruptions", 50), ("--importance-samples", 999_999)):
        printed = call("train", *TINY, option, value, "--output", "new", code=2)
        assert option[2:].replace("-", "_") in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", ["samples", "annealed", "chains", "annealing-steps", "simulated", "memory"]
)
def test_huge_numbers_of_an_evaluation_are_refused(option, run, call):
    before = snapshot(run)
    assert option.replace("-", "_") in call("evaluate", run, f"--{option}", 10**9, code=2).err
    call("sample", run, "--count", 10**9, code=2)
    call("sample", run, "--seed", 2**64, code=2)
    assert snapshot(run) == before
