"""The status of a running experiment."""

import io

import pytest

from pyro_dvae.jobs.executors import run_progress
from pyro_dvae.jobs.executors.run_progress import ProgressRelay, RunsProgress
from pyro_dvae.training import History


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines(clock):
    stream = io.StringIO()
    watch = RunsProgress(3, stream=stream)
    watch.start("a")
    watch.epoch("a", 1, 4)
    clock[0] += 61
    watch.epoch("a", 2, 4)
    watch.note("a", "compiling")
    clock[0] += 59
    watch.end("a", "fine")
    watch.start("b")
    watch.end("b", "fine")
    watch.start("c")
    watch.end("c", "fine")
    watch.stop()
    assert stream.getvalue().splitlines() == [
        "started: a",
        "0 of 3 done, about 5 min 05 s left; a 50 %",
        "1 of 3: a: fine, about 4 min 00 s left",
        "started: b",
        "2 of 3: b: fine, about 1 min 00 s left",
        "started: c",
        "3 of 3: c: fine",
    ]


def test_what_a_resumed_run_had_is_not_taken_for_speed(clock):
    stream = io.StringIO()
    watch = RunsProgress(2, stream=stream)
    watch.start("a")
    watch.epoch("a", 301, 500)  # went on at epoch 301
    clock[0] += 60
    watch.epoch("a", 400, 500)
    assert stream.getvalue().splitlines()[-1] == "0 of 2 done, about 6 min 00 s left; a 80 %"


def test_quiet(clock):
    stream = io.StringIO()
    watch = RunsProgress(1, quiet=True, stream=stream)
    watch.start("a")
    watch.end("a", "fine")
    watch.stop()
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_on_a_terminal():
    stream = Terminal()
    watch = RunsProgress(2, stream=stream)
    for name in ("first", "second"):
        watch.start(name)
        watch.epoch(name, 3, 4)
        watch.note(name, "compiling")
        watch.end(name, "fine")
    watch.stop()
    shown = stream.getvalue()
    assert "1 of 2: first: fine" in shown
    assert "second: compiling" in shown
    assert "2/2" in shown


def test_a_reader_that_is_gone_does_not_stop_it(clock):
    stream = io.StringIO()
    watch = RunsProgress(1, stream=stream)
    stream.close()
    watch.start("a")
    watch.end("a", "fine")


def test_told_passes_epochs_and_notes_on():
    heard = []
    relay = ProgressRelay(lambda done, epochs: heard.append((done, epochs)), heard.append)
    history = History()
    relay.start(history, 5, 10)
    history.add(-1.0, None, 0.1, 0.1)
    relay.step(3)
    relay.epoch(history)
    relay.note("compiling")
    relay.stop()
    assert heard == [(1, 5), "compiling"]
