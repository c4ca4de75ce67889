"""A process that forks runs, kills and resumes them, and compares the result with an uninterrupted run.

    python killed_runs.py FOLDER KILLS RANKS SEED

Every run is forked from this process, which has torch and the data loaded, so a kill costs little. Half of
the kills fall on a file event in the run folder (an audit hook counts them), half on a random moment. It
prints a JSON record: the kills, where they fell, and what was dead or unequal.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.numpy import load_file

from pyro_dvae.cli import main

OPTIONS = ["--dataset", "digits", "--width", "3", "--latent-size", "2", "--batch-size", "400", "--quiet"]
OPTIONS += ["--importance-samples", "0", "--epochs", "3", "--binarisation", "dynamic", "--no-compile"]
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate")
TIMEOUT = 120


def fork(arguments, log, rank=0, ranks=1, port=0, kill_at=None):
    """Start a run in a child of this process; return its number."""
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if ranks > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
        if kill_at is not None:
            sys.addaudithook(killing(kill_at))
        main(arguments)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 0)
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
    os._exit(70)


def killing(number):
    """Return an audit hook that kills this process before its ``number``-th event on a file of the run."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS and "killed-run" in str(arguments[:1]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def wait(children):
    """Return the exit codes; a signal counts negative. What takes too long is killed and counts None."""
    codes, deadline = {}, time.monotonic() + TIMEOUT
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    codes[child] = None
        time.sleep(0.002)
    return [codes[child] for child in children]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def together(arguments, log, ranks, **options):
    port = free_port()
    return [fork(arguments, log, rank, ranks, port, **options) for rank in range(ranks)]


def state_of(folder):
    tensors = {name: each.tobytes() for name, each in load_file(folder / "checkpoint.safetensors").items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    results = json.loads((folder / "results.json").read_text())
    return tensors, metrics, {name: value for name, value in results.items() if name != "seconds"}


def campaign(folder, kills, ranks, seed):
    chance = random.Random(seed)
    whole, log = folder / "killed-run-whole", folder / "log"
    began = time.monotonic()
    codes = wait(together(["train", *OPTIONS, "--output", str(whole)], log, ranks))
    assert codes == [0] * ranks, log.read_text()
    seconds = time.monotonic() - began
    expected = state_of(whole)
    found = {"kills": 0, "at_events": 0, "resumes": 0, "wrong": []}
    event, events, stride = 0, 0, max(1, 120 // kills)
    while found["kills"] < kills:
        run = folder / f"killed-run-{found['kills']}"
        fresh = ["train", *OPTIONS, "--output", str(run)]
        at_event = found["kills"] % 2 == 0
        for attempt in range(5):  # later kills fall on the resumed run
            begun = (run / "config.json").exists()
            arguments = ["train", "--resume", str(run), "--quiet"] if begun else fresh
            if attempt == 4:
                children = together(arguments, log, ranks)
            elif at_event:
                event += stride
                children = together(arguments, log, ranks, kill_at=event)
            else:
                children = together(arguments, log, ranks)
                time.sleep(chance.uniform(0, 1.1 * seconds))
                for child in chance.sample(children, chance.randint(1, ranks)):
                    os.kill(child, signal.SIGKILL)
            codes = wait(children)
            if -signal.SIGKILL in codes:
                found["kills"] += 1
                found["at_events"] += at_event
            elif at_event and attempt < 4:
                events, event = max(events, event), event % stride  # a whole run has no more of them
            found["resumes"] += begun
            if None in codes or 70 in codes:
                found["wrong"].append(f"{run.name}: {codes} after {arguments}: {log.read_text()[-2000:]}")
        if codes != [0] * ranks:
            found["wrong"].append(f"{run.name}: not finished, {codes}: {log.read_text()[-2000:]}")
        elif state_of(run) != expected:
            found["wrong"].append(f"{run.name}: other tensors, metrics or results than the undisturbed run")
        elif left := [path.name for path in run.iterdir() if path.name.endswith(".partial")]:
            found["wrong"].append(f"{run.name}: left {left}")
        shutil.rmtree(run)
    return found | {"events": events, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as elsewhere,
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        # What a run loads and finds out is loaded and found here, once.
        main(["train", *OPTIONS, "--epochs", "1", "--output", f"{elsewhere}/run"])
    place, count, processes, start = Path(sys.argv[1]), *map(int, sys.argv[2:])
    print(json.dumps(campaign(place, count, processes, start)))
