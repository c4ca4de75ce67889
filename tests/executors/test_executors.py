"""Work on every executor: killed tasks continue elsewhere, stopped tasks continue later."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from executor_work import WorkItem, count, save_slowly

import pyro_dvae as dv
from pyro_dvae.datasets import Dataset, registry
from pyro_dvae.errors import ProcessLostError
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.jobs.executors import drive, driver, opened
from pyro_dvae.jobs.executors.choosing import parsed
from pyro_dvae.jobs.executors.run_progress import RunsProgress
from pyro_dvae.jobs.executors.worker import Work, driver_file
from pyro_dvae.ownership import OccupiedError

OPTIONS = {"local": {}, "submitit": {"cluster": "local"}, "dask": {}}


def slow(*names):
    """Return the executors as parameters, those named marked slow."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in names else n for n in OPTIONS]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    places = (Path(__file__).parents[1], Path(dv.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


def driven(executor, pieces, folder, options=None):
    found = {}

    def keep(piece, result):
        found[piece.key] = result
        return "counted"

    options = OPTIONS.get(executor) if options is None and isinstance(executor, str) else options
    with opened(executor, folder, 2, options) as workers:
        watch = RunsProgress(len(pieces), quiet=True)
        drive(workers, partial(count, folder=folder), pieces, folder, watch=watch, keep=keep, width=2)
    return found


@pytest.mark.parametrize(
    "name", slow("local", "submitit")
)  # the last waits 15 s for the result of a lost job
def test_a_killed_workers_task_resumes_elsewhere_from_its_checkpoint(name, tmp_path):
    found = driven(name, [WorkItem("a"), WorkItem("b", dies=True)], tmp_path)
    assert {key: each["begun"] for key, each in found.items()} == {"a": 0, "b": 10}
    assert str(found["b"]["process"]) != (tmp_path / "b.died").read_text()
    assert not (tmp_path / "progress").exists()


@pytest.mark.parametrize("name", slow("submitit", "dask"))
def test_stopped_work_is_saved_and_resumes(name, tmp_path):
    pieces = [WorkItem(key, total=300, pause=0.1) for key in "abc"]

    def stop():
        while not all((tmp_path / f"{key}.count").exists() for key in "ab"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped):
        driven(name, pieces, tmp_path)
    thread.join()
    counts = {key: int((tmp_path / f"{key}.count").read_text()) for key in "ab"}
    assert all(0 < each < 300 for each in counts.values())
    assert not (tmp_path / "c.count").exists()
    time.sleep(1)
    assert {key: int((tmp_path / f"{key}.count").read_text()) for key in "ab"} == counts
    found = driven(name, [WorkItem(key, total=counts[key] + 2) for key in "ab"], tmp_path)
    assert {key: each["begun"] for key, each in found.items()} == counts


def test_slow_saving_is_not_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_ENDING", 0.1)

    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped), opened("local", tmp_path) as workers:
        drive_one(partial(save_slowly, folder=tmp_path), tmp_path, workers)
    thread.join()
    assert (tmp_path / "saved").exists()


SCRIPT = """
from functools import partial
from pathlib import Path
from executor_work import WorkItem, count
from pyro_dvae.jobs.executors import drive, opened
from pyro_dvae.jobs.executors.run_progress import RunsProgress

folder, watch = Path(), RunsProgress(1)
with opened("local", folder) as workers:
    drive(workers, partial(count, folder=folder), [WorkItem("a")], folder, watch=watch, keep=lambda *all: "")
"""


def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.search(
        "InputError: piece a: its process first runs the script again, .* if __name__ == '__main__':",
        ended.stderr.splitlines()[-1],
    )
    assert not (tmp_path / "a.count").exists()


UNGUARDED = {
    "dask": """
from pathlib import Path
from pyro_dvae.jobs.executors import opened

with opened("dask", Path(), 1):
    pass
""",
    "pool": SCRIPT.replace(
        'with opened("local", folder) as', "with ProcessPoolExecutor(1, spawn) as"
    ).replace(
        "from functools",
        """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
spawn = get_context("spawn")
from functools""",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNGUARDED)
def test_a_script_without_a_guard_is_told_what_it_lacks_by_other_executors(name, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED[name])
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "put what starts the work under if __name__ == '__main__':" in ended.stderr.splitlines()[-1]


class Thread:
    """An executor of one thread of this process, for tests that need no other process."""

    grace = 10.0

    def submit(self, function, planned):
        self.found = []
        self.thread = threading.Thread(target=lambda: self.found.append(function(planned)))
        self.thread.start()
        return self

    def done(self):
        return not self.thread.is_alive()

    def result(self):
        return self.found[0]


def drive_one(function, folder, executor=None):
    watch = RunsProgress(1, quiet=True)
    return drive(executor or Thread(), function, [WorkItem("a")], folder, watch=watch, keep=lambda *all: "")


def test_what_came_of_work_reaches_the_driver(tmp_path):
    def refused(piece, told):
        raise dv.InputError("no such thing")

    def diverged(piece, told):
        raise dv.DivergenceError("the loss is NaN")

    def failed(piece, told):
        raise KeyError("x")

    with pytest.raises(dv.InputError, match="piece a: no such thing"):
        drive_one(refused, tmp_path)
    assert drive_one(diverged, tmp_path) == ["piece a: the loss is NaN"]
    with pytest.raises(ProcessLostError, match="piece a failed: KeyError: 'x'; repeat the command"):
        drive_one(failed, tmp_path)


def test_a_worker_knows_the_data_sets_of_the_drivers_script(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_named", {})
    x = torch.zeros(2, 3)
    registry.register("Mine")(lambda request: Dataset("mine", x, x, x, None, None, None, None, True, "here"))

    class Elsewhere(Thread):
        def submit(self, function, planned):
            registry._named.clear()  # a process that has not run the script
            return super().submit(function, planned)

    def load(piece, told):
        raise dv.DivergenceError(dv.load_dataset("mine").source)  # what a piece tells its driver

    assert drive_one(load, tmp_path, Elsewhere()) == ["piece a: here"]


@pytest.mark.slow
def test_work_that_is_lost_without_going_on_is_given_up(tmp_path):
    class Lost(Thread):
        def result(self):
            raise RuntimeError("its node is gone")

    calls = []
    with pytest.raises(ProcessLostError, match="lost 3 times: RuntimeError: its node is gone"):
        drive_one(lambda piece, told: calls.append(piece), tmp_path, Lost())
    assert len(calls) == 3
    calls.clear()

    def goes_on(piece, told):
        calls.append(piece)
        told(len(calls), 9)
        time.sleep(1.2)
        told(len(calls), 9)

    class LostEightTimes(Lost):
        def result(self):
            return Thread.result(self) if len(calls) == 5 else Lost.result(self)

    assert drive_one(goes_on, tmp_path, LostEightTimes()) == []
    assert len(calls) == 5


def test_an_executor_that_ends_says_how_to_continue(tmp_path):
    class Ends(Thread):
        calls = 0

        def submit(self, function, planned):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("the scheduler is gone")
            return super().submit(function, planned)

        def result(self):
            raise RuntimeError("its worker is gone")

    with pytest.raises(ProcessLostError, match=r"a was not accepted: the scheduler is gone; once .* goes on"):
        drive_one(lambda piece, told: None, tmp_path, Ends())
    assert not (tmp_path / "progress").exists()


def test_a_worker_stops_when_its_driver_is_gone_and_waits_for_an_earlier_worker(tmp_path):
    driver = driver_file(tmp_path, "this")
    driver.parent.mkdir()
    calls = []

    def until_stopped(piece, told):
        calls.append(piece)
        with Interrupts() as interrupts:
            while not interrupts.requested:
                driver.unlink(missing_ok=True)
                time.sleep(0.1)
                told(1, 2)
        raise Stopped

    def occupied_at_first(piece, told):
        calls.append(piece)
        if len(calls) == 1:
            raise OccupiedError("checkpoint: another process is writing to it")
        return "done"

    assert Work(until_stopped, tmp_path, "this")(WorkItem("a"))[0] == "stopped"
    assert not calls
    driver.touch()
    assert Work(until_stopped, tmp_path, "this")(WorkItem("a"))[0] == "stopped"
    assert len(calls) == 1
    driver.touch()
    calls.clear()
    assert Work(occupied_at_first, tmp_path, "this")(WorkItem("a")) == ("done", "done")
    assert len(calls) == 2


@pytest.mark.slow
def test_a_pool_of_the_standard_library_is_an_executor(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = driven(pool, [WorkItem("a")], tmp_path)
    assert found["a"]["begun"] == 0
    assert found["a"]["process"] != os.getpid()


# sbatch starts the job, preempts it after a few counts, and starts it again when it is requeued.
FAKES = {
    "sbatch": """
cp "$1" "$FAKE/given"
export SLURM_JOB_ID=7 SUBMITIT_EXECUTOR=slurm
(
  bash "$1" &
  while [ ! -e "$FAKE/a.count" ]; do sleep 0.1; done
  kill -USR2 "$(cat "$FAKE/process")"
  wait
  [ -e "$FAKE/requeued" ] && bash "$1"
) > "$FAKE/log" 2>&1 &
echo "Submitted batch job 7"
""",
    "srun": """
while [[ "$1" == -* ]]; do
  [[ "$1" == --output || "$1" == --error ]] && shift
  shift
done
echo $$ > "$FAKE/process"
exec "$@"
""",
    "scontrol": 'echo "$@" > "$FAKE/requeued"',
    "sacct": "echo 'JobID|State|NodeList'; echo '7|RUNNING|here'",
}


def imitated(commands, folder, monkeypatch):
    tools = folder / "bin"
    tools.mkdir()
    for name, text in commands.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))


def test_slurm_gets_the_job_and_a_preempted_one_resumes_from_its_checkpoint(tmp_path, monkeypatch):
    imitated(FAKES, tmp_path, monkeypatch)
    options = {"slurm_partition": "long", "timeout_min": 30}
    found = driven("submitit", [WorkItem("a", total=40, pause=0.1)], tmp_path, options)
    assert 0 < found["a"]["begun"] < 40
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    script = (tmp_path / "given").read_text()
    for line in ("job-name=pyro-dvae", "partition=long", "time=30", "cpus-per-task=1", "signal=USR2@90"):
        assert f"#SBATCH --{line}\n" in script


def test_what_slurm_refuses_is_one_line(tmp_path, monkeypatch):
    imitated(
        FAKES | {"sbatch": "echo 'invalid partition specified: long' >&2; exit 1"}, tmp_path, monkeypatch
    )
    with pytest.raises(dv.InputError, match=r"executor: piece a was not accepted: .*invalid partition"):
        driven("submitit", [WorkItem("a")], tmp_path, {"slurm_partition": "long"})
    assert not (tmp_path / "progress").exists()


@pytest.mark.parametrize(
    ("executor", "options", "message"),
    [
        ("dsak", {}, "did you mean 'dask'"),
        (object(), {}, "an object with submit"),
        ("local", {"n_workers": 2}, "only the executors submitit and dask"),
        ("submitit", {"cluster": "local", "color": 1}, "submitit: .*color"),
        ("submitit", {"cluster": "nowhere"}, "submitit: .*nowhere"),
        ("dask", {"address": "tcp://127.0.0.1:1", "timeout": 0.1}, r"dask: tcp://127\.0\.0\.1:1"),
    ],
)
def test_bad_executors_are_refused(executor, options, message, tmp_path):
    with pytest.raises(dv.InputError, match=message), opened(executor, tmp_path, 1, options):
        pass


@pytest.mark.slow
def test_two_clusters_of_dask_are_no_trouble(tmp_path):
    with opened("dask", tmp_path, 1) as one, opened("dask", tmp_path, 1) as two:
        assert one.submit(sum, (1, 2)).result() == two.submit(sum, (1, 2)).result() == 3


@pytest.mark.slow
def test_what_a_terminal_sends_to_the_workers_of_dask_does_not_end_them(tmp_path):
    with opened("dask", tmp_path, 1) as client:
        (process,) = client.run(os.getpid).values()
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(process, number)
        assert list(client.run(os.getpid).values()) == [process]


def test_options_of_an_executor_are_read():
    found = parsed(["slurm_partition=long", "timeout_min=30", "mem_gb=1.5"])
    assert found == {"slurm_partition": "long", "timeout_min": 30, "mem_gb": 1.5}
    with pytest.raises(dv.InputError, match="expected NAME=VALUE, got 'long'"):
        parsed(["long"])


@pytest.mark.parametrize(
    "text", ["00123", "2024_05", "inf", "nan", "1e5", "1.50", "+1", "True", "a=b", "9" * 500 + "_"]
)
def test_a_text_of_an_executor_remains_as_it_is(text):
    assert parsed([f"slurm_account={text}"]) == {"slurm_account": text}


def test_other_values_of_an_executor():
    found = parsed(
        [
            "slurm_use_srun=false",
            "stderr_to_stdout=true",
            'slurm_setup=["module load cuda", "hostname"]',
            'slurm_additional_parameters={"requeue": true, "nice": 5}',
            "jobs=-3",
            f"large={'9' * 500}",
        ]
    )
    assert found == {
        "slurm_use_srun": False,
        "stderr_to_stdout": True,
        "slurm_setup": ["module load cuda", "hostname"],
        "slurm_additional_parameters": {"requeue": True, "nice": 5},
        "jobs": -3,
        "large": int("9" * 500),
    }
    with pytest.raises(dv.InputError, match=r"expected a list or record in JSON for slurm_setup.*got '\[a'"):
        parsed(["slurm_setup=[a"])


def test_a_scheduler_without_workers_is_told(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:
        options = {"address": cluster.scheduler_address}
        with (
            pytest.warns(UserWarning, match=r"^executor: dask: the scheduler \w+://.* has no workers yet"),
            opened("dask", tmp_path, 1, options),
        ):
            pass
