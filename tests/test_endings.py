"""How a command ends: by signals, with output that cannot be encoded, without memory or disk space."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pyro_dvae.cli import main
from pyro_dvae.interrupts import Interrupts, at_once
from pyro_dvae.jobs import command as ending
from pyro_dvae.text import show, visible

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from pyro_dvae.cli import main; main()"]
TINY = ["--dataset", "digits", "--width", "3", "--latent-size", "2", "--batch-size", "400"]
TINY += ["--importance-samples", "0"]


def start(*arguments, cwd, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.Popen([*COMMAND, *arguments], cwd=cwd, env=environment, **pipes, **options)


def wait_for(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    pytest.fail("waited a minute")


def lines_of(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_hang_up_saves_and_the_advice_is_quoted_for_the_shell(tmp_path):
    process = start(
        *("train", *TINY, "--epochs", "100000", "--no-compile", "--output", "a run", "--quiet"),
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where nohup runs the tests
    )
    wait_for(lambda: lines_of(tmp_path / "a run" / "metrics.jsonl") >= 2, process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "stopped; continue with: pyro-dvae train --resume 'a run'"


def test_the_spaces_of_a_path_stay_in_an_error(capsys, tmp_path):
    folder = tmp_path / "two  spaces"
    with pytest.raises(SystemExit) as ended:
        main(["info", str(folder)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: run: no folder {folder}\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_outside_of_training_says_how_to_continue(name, capsys, monkeypatch, tmp_path):
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"{name} is ignored")
    before = signal.signal(number, signal.SIG_DFL)

    def stop(*args, **kwargs):
        signal.raise_signal(number)

    monkeypatch.setattr("pyro_dvae.jobs.evaluate.load_evaluated_run", stop)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "run", "--output", str(tmp_path)])
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert ended.value.code == 130
    told = f"stopped; continue with: pyro-dvae evaluate run --output {tmp_path}"
    assert capsys.readouterr().err.strip() == told


@pytest.mark.slow
def test_ctrl_c_while_compiling_ends_within_seconds_and_the_run_resumes(tmp_path):
    process = start("train", *TINY, "--epochs", "2", "--compile", "--output", "run", cwd=tmp_path)
    for line in process.stderr:
        if "compiling" in line:
            break
    time.sleep(2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "stopped; continue with: pyro-dvae train --resume run" in err
    again = start("train", "--resume", "run", "--quiet", cwd=tmp_path)
    assert "test bound" in again.communicate(timeout=300)[0]


def test_a_signal_ends_at_once_if_nothing_is_half_done():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), at_once():
            signal.raise_signal(signal.SIGINT)
        assert not interrupts.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt), at_once():
            pytest.fail("a request came before")


@pytest.mark.parametrize("command", ["evaluate", "reproduce"])
def test_a_stopped_command_names_itself_before_anything_is_saved(command, capsys, monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_dvae.jobs.evaluate.load_evaluated_run", stop)
    monkeypatch.setattr("pyro_dvae.jobs.experiments.running.plan", stop)
    arguments = [command, "table1" if command == "reproduce" else "my run", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 130
    quoted = "'my run'" if command == "evaluate" else "table1"
    told = f"stopped; continue with: pyro-dvae {command} {quoted} --output {tmp_path}"
    assert capsys.readouterr().err.strip() == told


def test_a_stopped_module_names_itself(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/pyro_dvae/__main__.py", "train"])
    monkeypatch.setattr(ending, "_work", ending._Work())
    ending.go_on_with(Path("run") / "checkpoint.safetensors")
    assert ending._work.how_to_go_on() == "python -m pyro_dvae train --resume run"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    told = "torchrun --nproc-per-node=2 -m pyro_dvae train --resume run"
    assert ending._work.how_to_go_on() == told


def test_bare_command_prints_its_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: ")
    assert len(printed.out.splitlines()) > 10
    assert printed.err == ""


# Output


@pytest.mark.slow
def test_ascii_terminals_get_plain_letters(tmp_path):
    env = {"PYTHONIOENCODING": "ascii"}
    process = start("train", *TINY, "--epochs", "1", "--output", "run", cwd=tmp_path, env=env)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert " +/- " in out
    out, err = start("info", "run", cwd=tmp_path, env=env).communicate(timeout=60)
    assert " +/- " in out, err


def test_show_never_fails_for_characters_and_hides_control_codes():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show("\u22121 ± 2² … z₁ 漢 \x1b[31m\udcff", stream)
    stream.seek(0)
    assert stream.read() == "\\u22121 +/- 22 ... z1 \\u6f22 \\x1b[31m\\udcff\n"
    assert visible("a\x1b]0;title\x07\tb\nc\u202e\x9b") == "a\\x1b]0;title\\x07\tb\nc\\u202e\\x9b"


def test_a_reader_that_is_gone_is_no_traceback(tmp_path):
    process = start("--help", cwd=tmp_path)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)
    process.stderr.close()


# Disk and memory


def limited(size):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_folder_that_may_not_be_entered_is_bad_input(capsys, monkeypatch):
    def refuse(*paths):
        raise PermissionError(13, "Permission denied", "secret/run")

    monkeypatch.setattr("pyro_dvae.jobs.folder.user_path", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["info", "secret/run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: Permission denied: secret/run\n"


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_checkpoint_stays_whole(tmp_path, monkeypatch):
    train = ["train", *TINY, "--output", "run", "--quiet", "--epochs", "3", "--rate-schedule", "constant"]
    monkeypatch.chdir(tmp_path)
    main(train, standalone_mode=False)
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    more = ["train", "--resume", "run", "--epochs", "5", "--quiet"]
    process = start(*more, cwd=tmp_path, preexec_fn=limited(len(before) // 2))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: output: cannot write run/checkpoint.safetensors: File too large")
    assert len(err.splitlines()) == 1
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*.partial"))
    main(more, standalone_mode=False)
    assert lines_of(tmp_path / "run" / "metrics.jsonl") == 5


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_read_only_folder_can_be_read_and_not_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ["train", *TINY, "--epochs", "1", "--output", "run", "--quiet"]
    for arguments, code in ((call, 0), (["info", "run"], 0), (["train", "--resume", "run"], 2)):
        if arguments[0] == "info":
            os.chmod("run", 0o500)
            if os.access("run", os.W_OK):  # root writes everywhere
                monkeypatch.setattr("filelock.FileLock.acquire", refuse)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    os.chmod("run", 0o700)
    assert "cannot write run/.lock: Permission denied" in capsys.readouterr().err


def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")],
)
def test_out_of_memory_is_one_line(error, capsys, monkeypatch, tmp_path):
    from pyro_dvae.training.trainer import Trainer

    def fail(*args):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(SystemExit) as ended:
        main(["train", *TINY, "--epochs", "1", "--output", "run", "--quiet"])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory: ")
    assert "--resume run" in err
    assert len(err.splitlines()) == 1


# Packages


def test_the_package_works_from_a_zip_without_its_stub(tmp_path):
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for path in sorted((ROOT / "pyro_dvae").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT))
    code = (
        "import pyro_dvae as dv, json\nassert '.zip' in dv.__file__\n"
        "print(json.dumps([len(dv.__all__), dv.corrupt.__name__, len(dv.load_dataset('digits').test)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "package.zip")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names, corrupt, rows = json.loads(done.stdout)
    assert (names > 30, corrupt, rows) == (True, "corrupt", 270)
