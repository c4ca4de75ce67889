"""One process writes to a checkpoint or an experiment's folder, others read; a lock ends with its process.

Started by the tests, ``python test_ownership.py FOLDER`` trains, evaluates and reproduces into it until it is
killed.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pyro
import pytest
import torch
from each_epoch import BeforeEpoch
from experiments_small import SMALL
from filelock import FileLock, Timeout

import pyro_dvae as dv
from pyro_dvae.jobs.experiments import plan, running
from pyro_dvae.jobs.experiments.running import reproduce
from pyro_dvae.networks import GaussianDecoder, GaussianEncoder
from pyro_dvae.ownership import FileOwner
from pyro_dvae.training import load_trained
from pyro_dvae.training.run_state import read_training

X = torch.linspace(-1, 1, 24).reshape(12, 2)
FILES = {"fit": "fit.safetensors", "fit_many": "many.safetensors", "log_likelihood": "kept.safetensors"}
REFUSED = "another process is writing to"


def pair():
    pyro.clear_param_store()
    torch.manual_seed(1)
    return dv.DVAE(GaussianEncoder(2, 1, (3,)), GaussianDecoder(2, 1, (3,)))


def trainer(folder, **options):
    dvae = pair()
    options = {"epochs": 2, "batch_size": 6, "progress": False, "compile": False} | options
    path = folder / FILES["fit"]
    return dv.Trainer(dvae.model, dvae.guide, X, loss=dv.TraceDenoising_ELBO(), checkpoint=path, **options)


def fit(folder, **options):
    made = trainer(folder, **options)
    for epoch in made:
        for x in epoch:
            made.step(x)
    return made


def fit_many(folder, **options):
    pairs = [(each.model, each.guide) for each in (pair(), pair())]
    options = {"epochs": 1, "batch_size": 6, "progress": False} | options
    return dv.fit_many(
        pairs, X, loss=dv.TraceDenoising_ELBO(), checkpoint=folder / FILES["fit_many"], **options
    )


def log_likelihood(folder, **options):
    dvae = pair()
    options = {"num_samples": 10, "seed": 0, "progress": False} | options
    return dv.log_likelihood(
        dvae.model, dvae.guide, X, checkpoint=folder / FILES["log_likelihood"], **options
    )


def small(folder, **options):
    return reproduce(SMALL, plan(SMALL, seeds=1)[:1], folder / "small", device="cpu", quiet=True, **options)


OWNERS = {"fit": fit, "fit_many": fit_many, "log_likelihood": log_likelihood, "small": small}


def hold(folder):
    """Train, evaluate and reproduce at the same time."""

    def wait(*_):
        print("held", flush=True)
        time.sleep(120)

    class TrainMany(dv.Callback):
        def checkpoint(self, run):
            fit_many(folder, callbacks=[BeforeEpoch(lambda _: log_likelihood(folder, progress=wait))])

    def perform(*_):
        fit(folder, callbacks=[TrainMany()])

    with mock.patch.object(running, "_perform", perform):
        small(folder)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    with subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


@pytest.mark.parametrize("name", OWNERS)
def test_a_second_process_is_refused_and_changes_nothing(held, name):
    folder = held[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(dv.InputError, match=REFUSED) as error:
        OWNERS[name](folder)
    argument, file = ("output", "small") if name == "small" else ("checkpoint", FILES[name])
    assert str(error.value).startswith(f"{argument}: {REFUSED} {folder / file}; ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_readers_need_no_lock_and_other_files_have_their_own(held, tmp_path):
    folder = held[0]
    path, dvae = folder / FILES["fit"], pair()
    assert read_training(path)[1]["epoch"] == 1
    load_trained(path, dvae.model, dvae.guide, dv.TraceDenoising_ELBO(), X)
    assert small(folder, train=False).missing
    with FileOwner(checkpoint=folder / "another.safetensors").held():
        pass


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_locks_die_with_their_process(held):
    folder, process = held
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert fit(folder, resume=True).history.epochs == [1, 2]
    assert log_likelihood(folder).num_samples == 10
    with mock.patch.object(running, "_perform", return_value=[]):
        small(folder)
    with FileOwner(checkpoint=folder / FILES["fit_many"]).held():
        pass


# In one process


def free(path):
    """Return whether another process could lock the file."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return False
    lock.release()
    return True


def test_a_trainer_holds_its_files_from_its_making_to_the_end_of_its_loop(tmp_path):
    paths = [tmp_path / FILES["fit"], tmp_path / "metrics.jsonl"]
    made = trainer(tmp_path, metrics=paths[1])
    assert not any(map(free, paths))
    for epoch in made:
        for x in epoch:
            made.step(x)
        assert not any(map(free, paths))
    assert all(map(free, paths))
    made.save()  # for as long as it takes
    assert all(map(free, paths))
    longer = trainer(tmp_path, resume=True, epochs=3, metrics=paths[1])
    assert not any(map(free, paths))
    next(iter(longer))  # a loop that is left
    assert all(map(free, paths))
    assert list(fit(tmp_path, resume=True)) == []  # nothing to do


def test_a_process_may_hold_a_file_several_times(tmp_path):
    path = tmp_path / "a"
    first, second = FileOwner(checkpoint=path), FileOwner(checkpoint=path)
    first.take()
    first.take()
    second.take()
    second.release()
    second.release()
    assert not free(path)
    del first  # without a word
    assert free(path)


def test_a_refused_trainer_gives_its_files_back(tmp_path):
    fit(tmp_path)
    with pytest.raises(dv.InputError, match="epochs: 2 are done") as kept:
        trainer(tmp_path, resume=True, epochs=1)
    assert free(tmp_path / FILES["fit"])
    del kept


def test_of_several_files_none_is_taken_if_one_is_not_to_be_had(tmp_path):
    with FileLock(tmp_path / ".b.lock"):
        with pytest.raises(dv.InputError, match="metrics: another process"):
            FileOwner(checkpoint=tmp_path / "a", metrics=tmp_path / "b").take()
        assert free(tmp_path / "a")


def test_one_file_for_two_purposes_is_refused(tmp_path):
    with pytest.raises(
        dv.InputError, match="checkpoint, metrics: expected different files, got one for both"
    ):
        trainer(tmp_path, metrics=tmp_path / "." / FILES["fit"])


if __name__ == "__main__":
    hold(Path(sys.argv[1]))
