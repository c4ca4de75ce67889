"""The example under ``torchrun``: one run folder, one printed table; a killed rank; Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyro_dvae.checkpoint import load_checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "mnist_dvae.py"
SMALL = ["--dataset", "digits", "--width", "20", "--latent-size", "5", "--importance-samples", "5"]
# torchrun would take the script's --log for an abbreviation of its own options without "--".
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
LAUNCH = [*TORCHRUN, "--", str(EXAMPLE)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def launch(*arguments, cwd):
    return subprocess.Popen(
        [*LAUNCH, *SMALL, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background jobs ignore it
    )


def finished(*arguments, cwd):
    process = launch(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def epochs_in(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.kill()
    pytest.fail("waited two minutes")


def workers(process):
    """Return the process numbers of the two ranks, by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            parent = int(re.search(r"^PPid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)[1])
        except OSError:
            continue
        ranks = [int(each[5:]) for each in environment if each.startswith(b"RANK=")]
        if ranks and parent == process.pid:
            found[ranks[0]] = int(entry.name)
    return found


@pytest.mark.slow  # the ranks of distributed/test_ranks.py are started by torchrun as well
def test_the_example_trains_in_one_folder_and_prints_once(tmp_path):
    out, err = finished("--epochs", "2", "--log", "csv", cwd=tmp_path)
    assert out.count("test bound  ") == 1
    assert len(re.findall(r"^epoch 2/2", err, re.MULTILINE)) == 1
    (folder,) = (tmp_path / "runs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["epochs"] == epochs_in(folder) == 2
    lines = (folder / "log.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["epoch", "1", "2"]
    assert -60 < results["test_bound"]["mean"] < results["importance_weighted_bound"]["mean"] < -20
    _, state = load_checkpoint(folder / "checkpoint.safetensors")
    assert len(state["ranks"]) == 2
    assert state["history"]["train_bound"][1] > state["history"]["train_bound"][0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks in /proc")
def test_a_killed_rank_ends_the_run_with_one_line_and_the_checkpoint_resumes(tmp_path):
    folder = tmp_path / "run"
    process = launch("--epochs", "2000", "--output", str(folder), cwd=tmp_path)
    wait_for(lambda: epochs_in(folder) >= 2, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if "another of the 2 processes ended" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert str(folder / "checkpoint.safetensors") in lines[0]
    assert str(EXAMPLE) not in "".join(re.findall(r'File "(.*?)"', err))  # no traceback of the script
    done = epochs_in(folder)
    finished("--resume", str(folder), "--epochs", str(done + 2), cwd=tmp_path)
    assert epochs_in(folder) == done + 2
    assert (folder / "results.json").exists()


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    folder = tmp_path / "run"
    process = launch("--epochs", "2000", "--output", str(folder), cwd=tmp_path)
    wait_for(lambda: epochs_in(folder) >= 2, process)
    process.send_signal(signal.SIGINT)  # torchrun hands it on to the ranks, as from a terminal
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("stopped; continue with: torchrun --nproc-per-node=2 ") == 1
    assert f"--resume {folder}" in err
    done = epochs_in(folder)
    finished("--resume", str(folder), "--epochs", str(done + 1), cwd=tmp_path)
    assert epochs_in(folder) == done + 1
