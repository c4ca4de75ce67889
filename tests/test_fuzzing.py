"""Random command lines and damage to files: no traceback, one line, exit code 2, nothing changed on disk.

``python tests/test_fuzzing.py MINUTES SEED`` goes on for so long, also with the odd arguments of
``test_odd_arguments.py``, and prints how many cases it tried.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from test_odd_arguments import check_odd_call, odd_calls

import pyro_dvae as dv
from pyro_dvae.cli import main
from pyro_dvae.datasets.mnist import IMAGES_MAGIC, check_idx, unpack
from pyro_dvae.jobs.folder import describe, lines, load_run, read_config, read_results
from pyro_dvae.training.run_state import read_training

FEW = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TINY = ["--dataset", "digits", "--width", "3", "--latent-size", "2", "--epochs", "1", "--quiet"]
TINY += ["--batch-size", "500", "--importance-samples", "0"]


class Accepted(SystemExit):
    """The command reached its actual work, which is not tested here."""


def accept(*args, **kwargs):
    raise Accepted(0)


@contextlib.contextmanager
def without_work():
    places = (
        "pyro_dvae.training.trainer.Trainer.__iter__",
        "pyro_dvae.jobs.evaluate.measure",
        "pyro_dvae.jobs.experiments.running._perform",
    )
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(mock.patch(place, accept))
        yield


@contextlib.contextmanager
def place():
    """A working folder with a run, a data file and nothing else."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            shutil.copytree(trained(), "run")
            np.save("mine.npy", np.arange(40.0).reshape(20, 2) / 40)
            yield Path(folder)
        finally:
            os.chdir(before)


def trained(made=[]):  # noqa: B006 - kept between calls
    if not made:
        made.append(Path(tempfile.mkdtemp()) / "run")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main(["train", *TINY, "--output", str(made[0])])
    return made[0]


def check_message(text):
    assert "\n" not in text
    assert len(text) < 1000


# The command line

ODD = [
    "",
    " ",
    "x",
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "1.5",
    "1e400",
    "nan",
    "-inf",
    "999999999999",
    "9" * 400,
    "None",
]
ODD += ["\x1b[31m", "é", "\udcff", "~nobody-here/x", "a" * 5000, "/dev/null", "/dev/zero", "/proc/self/mem"]
ODD += [
    "mine.npy",
    "run",
    "run/config.json",
    "digits",
    "meta",
    "cuda:77",
    "auto",
    "true",
    "--",
    "-",
    "[1]",
    "$x$",
]
values = st.sampled_from(ODD) | st.text(max_size=8) | st.integers().map(str) | st.floats().map(str)
BASES = {
    "train": [TINY, ["--resume", "run", "--quiet"]],
    "evaluate": [["run", "--quiet"]],
    "sample": [["run", "--count", "2"]],
    "info": [["run"]],
    "verify": [["run", "--steps", "1"]],
    "reproduce": [["table1", "--quiet"]],
}


def mostly(usual, odd):
    return st.one_of(usual, usual, usual, odd)


def given_to(option):
    """Return values for an option, most of which it accepts."""
    if isinstance(option.type, click.Choice):
        usual = st.sampled_from(option.type.choices)
    elif isinstance(option.type, click.types.FloatParamType):
        usual = st.floats(0, 1).map(str)
    elif isinstance(option.type, click.types.IntParamType):
        usual = st.integers(0, 3).map(str) | st.sampled_from(["-1", "100000", "1000000000", str(2**63)])
    else:
        usual = st.sampled_from(["run", "new", "mine.npy", "digits", "cpu", "0.5", "."])
    return mostly(usual, values)


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(sorted(BASES)))
    line = [name, *draw(st.sampled_from(BASES[name]))]
    for option in draw(st.lists(st.sampled_from(main.commands[name].params), min_size=1, max_size=4)):
        if isinstance(option, click.Argument):
            line += draw(mostly(st.just([]), st.lists(values, max_size=1)))
            continue
        line.append(draw(mostly(st.sampled_from([*option.opts, *option.secondary_opts]), values)))
        line += [] if option.is_flag else [draw(given_to(option))]
    return line


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if not path.name.endswith(".lock")
    }


def check_command_line(line):
    with place() as folder:
        before, out, err = snapshot(folder), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), without_work():
            try:
                main(line)
                code = None
            except Accepted:
                code = 0
            except SystemExit as end:
                code = end.code
        assert code in (0, 1, 2), line
        printed = out.getvalue() + err.getvalue()
        assert "Traceback" not in printed
        assert "\x1b" not in printed
        if code:
            before_it = ("warning: ", "data: ", "run folder: ")
            told = [each for each in err.getvalue().splitlines() if not each.startswith(before_it)]
            verified = line[0] == "verify" and out.getvalue().startswith("not the same bits")
            assert len(told) == (0 if verified else 1), err.getvalue()
            assert verified or told[0].startswith("error: ")
            assert len(told[0] if told else "") < 1000
        if code == 2:
            assert snapshot(folder) == before, line


@FEW
@given(command_lines())
def test_command_lines(line):
    check_command_line(line)


# Files

damages = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "put", "double"]), st.floats(0, 1), st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)


def damaged(content, steps):
    made = bytearray(content)
    for kind, where, data in steps:
        at = int(where * len(made))
        if kind == "cut":
            del made[at:]
        elif kind == "put":
            made[at:at] = data
        elif kind == "double":
            made[at:at] = made[at : at + 64]
        elif made:
            made[min(at, len(made) - 1)] ^= (data or b"\1")[0] or 1
    return bytes(made)


def unpacked(path):
    unpack(path, path.parent / "plain", IMAGES_MAGIC)
    check_idx(path.parent / "plain", IMAGES_MAGIC)


def npz_bytes():
    file = io.BytesIO()
    np.savez(file, np.arange(20.0).reshape(10, 2) / 20)
    return file.getvalue()


def npy_bytes():
    file = io.BytesIO()
    np.save(file, np.arange(20.0).reshape(10, 2) / 20)
    return file.getvalue()


IDX = struct.pack(">4I", IMAGES_MAGIC, 3, 2, 2) + bytes(12)
READERS = {
    "x.npy": (npy_bytes, dv.load_dataset),
    "x.npz": (npz_bytes, dv.load_dataset),
    "x.csv": (lambda: b"a,b\n" + b"0.5,1\n0,0.25\n" * 5, dv.load_dataset),
    "x-idx": (lambda: IDX, lambda path: check_idx(path, IMAGES_MAGIC)),
    "x.gz": (lambda: gzip.compress(IDX), unpacked),
    "config.json": (None, lambda path: (read_config(path.parent), load_run(path.parent))),
    "results.json": (None, lambda path: (read_results(path.parent), lines(describe(path.parent)))),
    "checkpoint.safetensors": (None, lambda path: (read_training(path), lines(describe(path.parent)))),
}


def check_file(name, steps):
    content, read = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / name
        if content is None:
            target = Path(shutil.copytree(trained(), Path(folder) / "run")) / name
        original = (trained() / name).read_bytes() if content is None else content()
        target.write_bytes(damaged(original, steps))
        try:
            read(target)
        except dv.InputError as error:
            check_message(str(error))


@pytest.mark.parametrize("name", READERS)
@FEW
@given(steps=damages)
def test_damaged_files(name, steps):
    check_file(name, steps)


# JSON that is well-formed and strange

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def check_json(name, keys, value):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(shutil.copytree(trained(), Path(folder) / "run")) / name
        content = inner = json.loads(target.read_text())
        for number in keys[:-1]:
            within = sorted(inner)[number % len(inner)]
            if not isinstance(inner[within], dict) or not inner[within]:
                break
            inner = inner[within]
        inner[sorted(inner)[keys[-1] % len(inner)]] = value
        target.write_text(json.dumps(content))
        try:
            lines(describe(target.parent))
            load_run(target.parent)
        except dv.InputError as error:
            check_message(str(error))


@pytest.mark.parametrize("name", ["config.json", "results.json"])
@FEW
@given(keys=st.lists(st.integers(0, 40), min_size=1, max_size=3), value=anything)
def test_strange_json(name, keys, value):
    check_json(name, keys, value)


def campaign(minutes, start):
    """Try cases for a number of minutes; print how many were tried, and the first that failed."""
    tried = {"command lines": 0, "damaged files": 0, "strange JSON": 0, "odd arguments": 0}
    end, round_ = time.monotonic() + 60 * minutes, start
    names = st.sampled_from(["config.json", "results.json"])
    keys = st.lists(st.integers(0, 40), min_size=1, max_size=3)

    def counted(kind, check):
        def run(case):
            tried[kind] += 1
            check(*case)

        return run

    while time.monotonic() < end:
        for kind, check, cases in (
            ("command lines", check_command_line, st.tuples(command_lines())),
            ("damaged files", check_file, st.tuples(st.sampled_from(sorted(READERS)), damages)),
            ("strange JSON", check_json, st.tuples(names, keys, anything)),
            ("odd arguments", check_odd_call, odd_calls()),
        ):
            run = given(cases)(counted(kind, check))
            more = settings(FEW, derandomize=False, max_examples=200)
            try:
                seed(round_)(more(run))()
            except BaseException as error:
                print(f"{kind}, seed {round_}: {error!r:.2000}", flush=True)
                for note in getattr(error, "__notes__", []):
                    print(f"{note:.3000}", flush=True)
        round_ += 1
        print(json.dumps(tried | {"minutes left": round((end - time.monotonic()) / 60, 1)}), flush=True)


if __name__ == "__main__":
    campaign(float(sys.argv[1]), int(sys.argv[2]))
