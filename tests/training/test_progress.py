import io
import os
import re
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import pytest

from pyro_dvae.training.history import History
from pyro_dvae.training.progress import Bar, Lines, NoProgress, duration, progress_for, seconds_left

pty = pytest.importorskip("pty")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def history(epochs, seconds=2.0, validated=True):
    result = History()
    for epoch in range(epochs):
        result.add(-110 + epoch / 10, -111 - abs(epoch - 3) if validated else None, 1e-3, seconds)
    return result


def lines_of(epochs, validated=True):
    stream = io.StringIO()
    progress = progress_for(stream)
    growing = History()
    progress.start(growing, epochs, 10)
    for epoch in range(epochs):
        progress.step(10)
        growing.add(-110 + epoch / 10, -111 - abs(epoch - 3) if validated else None, 1e-3, 2.0)
        progress.epoch(growing)
    progress.stop()
    return stream.getvalue().splitlines()


def test_plain_lines_one_per_epoch():
    assert lines_of(5) == [
        "5 epochs of 10 steps; bounds in nats per observation",
        "epoch 1/5  training -110.00  validation -114.00 (best)",
        "epoch 2/5  training -109.90  validation -113.00 (best)  6 s left",
        "epoch 3/5  training -109.80  validation -112.00 (best)  4 s left",
        "epoch 4/5  training -109.70  validation -111.00 (best)  2 s left",
        "epoch 5/5  training -109.60  validation -112.00",
    ]


def test_plain_lines_without_validation():
    assert lines_of(1, validated=False)[-1] == "epoch 1/1  training -110.00"


@pytest.mark.parametrize("epochs", [100, 101, 250, 5000])
def test_long_runs_say_about_a_hundred_lines(epochs):
    lines = lines_of(epochs)[1:]
    numbers = [int(re.match(r"epoch (\d+)/", line)[1]) for line in lines]
    assert numbers[0] == 1
    assert numbers[-1] == epochs
    assert 50 <= len(numbers) <= 102
    assert len({later - earlier for earlier, later in pairwise(numbers[1:-1])}) <= 1


def test_a_resumed_run_says_what_is_behind():
    stream = io.StringIO()
    Lines(stream).start(history(3), 10, 1)
    assert stream.getvalue() == "10 epochs of 1 step, 3 done; bounds in nats per observation\n"


def test_a_broken_stream_does_not_end_the_run():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    progress = Lines(Broken())
    progress.start(History(), 2, 1)
    progress.epoch(history(1))
    progress.stop()


def test_which_kind_for_which_stream(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress_for(Terminal()), Bar)
    assert isinstance(progress_for(io.StringIO()), Lines)
    assert isinstance(progress_for(Terminal(), enabled=False), NoProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_for(Terminal()), Lines)
    progress_for().start(History(), 1, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err != ""


def test_durations():
    assert [duration(value) for value in (0.4, 59.4, 59.6, 100, 3599.6, 7500)] == [
        *("0 s", "59 s", "1 min 00 s", "1 min 40 s", "1 h 00 min", "2 h 05 min"),
    ]


def test_the_time_left_follows_the_median_epoch():
    record = history(8)
    record.seconds[-1] = 500.0  # the median ignores one slow epoch
    assert seconds_left(record, 10) == 4.0
    assert seconds_left(record, 10, 0.5, 60.0) == 3.0
    assert seconds_left(record, 8) == 0.0
    assert seconds_left(History(), 10) is None
    assert seconds_left(history(1), 10) is None  # it also records the step and compares it
    assert seconds_left(History(), 10, 0.001, 0.5) is None
    assert seconds_left(History(), 10, 0.25, 5.0) == pytest.approx(195.0)


def test_a_step_costs_next_to_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    bar = Bar(Terminal())
    bar.start(History(), 1, 100_000)
    began, busy = time.monotonic(), time.process_time()
    for done in range(100_000):
        bar.step(done)
    elapsed, busy = time.monotonic() - began, time.process_time() - busy
    drawn = bar._stream.getvalue().count("epoch 1/1")
    bar.stop()
    assert busy / 100_000 < 20e-6
    assert drawn <= 3 + elapsed / 0.1


SCRIPT = """
    import os, signal, sys, time
    from pyro_dvae.training.history import History
    from pyro_dvae.training.progress import progress_for

    bar, record = progress_for(), History()
    try:
        bar.start(record, 4, 5)
        for epoch in range(4):
            for step in range(5):
                time.sleep(0.03)
                bar.step(step + 1)
                if len(sys.argv) > 1 and (epoch, step) == (2, 2):
                    print("from the loop")
                    os.kill(os.getpid(), signal.SIGINT)
            record.add(-110.0 + epoch, -112.0 + epoch, 1e-3, 0.15)
            bar.epoch(record)
    except KeyboardInterrupt:
        pass
    finally:
        bar.stop()
    print("after")
"""


def shown_on_a_terminal(tmp_path, *arguments, columns=100):
    """Run the script on a pseudo-terminal; return its whole output, and the lines left on the screen."""
    script = tmp_path / "bar.py"
    script.write_text(textwrap.dedent(SCRIPT))
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(20) == 0
    text = written.decode()
    screen = []
    for line in text.split("\n"):
        drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", lambda found: "\r" if found[0] == "\x1b[2K" else "", line)
        screen.append(drawn.rstrip("\r").rpartition("\r")[2].rstrip())
    return text, screen


@pytest.mark.parametrize("columns", [60, pytest.param(100, marks=pytest.mark.slow), 140])
def test_the_bar_on_a_terminal(tmp_path, columns):
    text, screen = shown_on_a_terminal(tmp_path, columns=columns)
    assert screen[0] == "4 epochs of 5 steps; bounds in nats per observation"
    assert screen[1].startswith("epoch 4/4  ")
    assert ("━" in screen[1]) == (columns >= 100)
    assert screen[1].endswith("training -107.00  validation -109.00 (best)")
    assert screen[2:] == ["after", ""]
    assert all(len(line) <= columns for line in screen)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden and comes back
    assert 3 <= text.count("epoch ") <= 27


def test_an_interrupt_leaves_the_bar_clean(tmp_path):
    text, screen = shown_on_a_terminal(tmp_path, "interrupt")
    assert screen[1] == "from the loop"
    assert screen[2].startswith("epoch 3/4  ━")
    assert "left  training -109.00  validation -111.00 (best)" in screen[2]
    assert screen[3:] == ["after", ""]
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "Traceback" not in text
