"""Two processes against one: gradients, parameters, evaluations, stops and failures."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_cases as cases
import pytest
import torch

from pyro_dvae.distributed import Ranks
from pyro_dvae.distributed.ranks import seed_of_rank

# A latent of all rows, in the plate of a batch, is what several processes are to get right, too.
pytestmark = pytest.mark.filterwarnings("ignore:.* is shared by all rows:UserWarning")

TRAININGS = (
    "training",
    "several",
    "clipped",
    "global_latent",
    "global_latent_pyro",
    "subsampled",
    "unsized",
    "unused",
    "own_backward",
    "compiled",
    "compiled_global",
    "called_back",
    "compiled_called_back",
)
OTHERS = (
    "resumed",
    "compiled_resumed",
    "diverging",
    "unrecordable",
    "failing",
    "owned",
    "likelihood",
    "unequal",
    "bounds",
)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Run every case in two processes, once; return what each rank found, and the folder."""
    folder = tmp_path_factory.mktemp("two")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, cases.__file__, str(folder), *TRAININGS, *OTHERS]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)], folder


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("name", TRAININGS)
def test_gradients_and_parameters_equal_those_of_one_process(two, name):
    expected, end, train_bound, validation_bound = cases.run_case(name, None)
    for rank in range(2):
        gradients, parameters, by_epoch, validated = two[0][rank][name]
        assert len(gradients) == len(expected) == 6
        for found, wanted in zip(gradients, expected, strict=True):
            close(found, wanted)
        close(parameters, end)
        assert by_epoch == pytest.approx(train_bound, rel=1e-9)
        assert validated == pytest.approx(validation_bound, rel=1e-9)
    if name == "several":
        close(end, cases.run_case("training", None)[1])
    if name.startswith("compiled"):
        same = {"compiled": "clipped", "compiled_global": "global_sgd"}
        plain = same.get(name, name.removeprefix("compiled_"))
        close(end, cases.run_case(plain, None)[1])
    if name == "clipped":
        norm = math.sqrt(sum(float(g.square().sum()) for g in expected[0].values()))
        assert norm == pytest.approx(0.5, rel=1e-5)  # so clipping did something
    if name == "unused":
        assert expected[0]["spare"] is None


@pytest.mark.parametrize("name", TRAININGS)
def test_ranks_hold_the_same_parameters_bit_for_bit(two, name):
    first, second = (found[name][1] for found in two[0])
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_noise_differs_between_ranks_and_weights_do_not(two):
    first, second = (found["resumed"][0] for found in two[0])
    assert not set(first["draws"]) & set(second["draws"])
    assert all(torch.equal(first["values"][key], second["values"][key]) for key in first["values"])


def test_rank_0_keeps_the_stream_of_a_process_alone(two, tmp_path):
    assert two[0][0]["resumed"][0]["draws"][0] == cases.run_case("resumed", tmp_path)[0]["draws"][0]


@pytest.mark.parametrize("name", ["resumed", "compiled_resumed"])
def test_a_stop_of_one_rank_stops_both_and_they_resume_bit_for_bit(two, name):
    for found in two[0]:
        whole, stopped, resumed = found[name]
        assert stopped["steps"] == 9  # the step in which the request came, and no further one
        assert "saved in" in stopped["message"]
        assert resumed["steps"] == whole["steps"] - 9
        assert resumed["draws"] == whole["draws"][9:]
        assert all(torch.equal(resumed["values"][key], whole["values"][key]) for key in whole["values"])


def test_one_process_resumes_the_checkpoint_of_two_and_says_so(two, tmp_path):
    kept = (two[1] / "parts" / "noisy.safetensors").read_bytes()
    (tmp_path / "noisy.safetensors").write_bytes(kept)
    with pytest.warns(UserWarning, match=r"by 2 process\(es\), now there are 1"):
        gone_on = cases.noisy(tmp_path, 4, resume=True)
    assert gone_on["steps"] == 6


def test_divergence_on_one_rank_ends_both_at_the_same_step(two):
    for found in two[0]:
        assert "diverged in epoch 1, step 1" in found["diverging"]


def test_if_one_rank_cannot_compile_both_take_ordinary_steps(two):
    end = cases.run_case("training", None)[1]
    for found in two[0]:
        (message,), parameters = found["unrecordable"]
        assert message.startswith("training by uncompiled steps, which are slower: ")
        close(parameters, end)


def test_hashed_noise_differs_between_ranks_and_weights_do_not(two):
    seeds = [seed_of_rank(Ranks(rank, 3), 7) for rank in range(3)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    first, second = (found["compiled_resumed"][0]["values"] for found in two[0])
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_failure_on_one_rank_reaches_the_other(two):
    assert two[0][1]["failing"] == ("InputError", "x: expected something else")
    name, message = two[0][0]["failing"]
    assert name == "ProcessLostError"
    assert message == "rank 1 failed: InputError: x: expected something else"


def test_the_ranks_are_one_owner_of_their_checkpoint(two):
    (_, first), (kind, second) = (found["owned"] for found in two[0])
    assert first.startswith("checkpoint: another process is writing to ")
    assert (kind, second) == ("ProcessLostError", f"rank 0 failed: OccupiedError: {first}")


def test_likelihood_equals_that_of_one_process_datum_by_datum(two, tmp_path):
    expected, _, files = cases.run_case("likelihood", tmp_path)
    assert files == ["kept.safetensors"]
    for found in two[0]:
        records, _, kept = found["likelihood"]
        assert kept == ["kept.1-of-2.safetensors", "kept.2-of-2.safetensors"]
        for record, wanted in zip(records, expected, strict=True):
            close(record, wanted)
    assert two[0][0]["likelihood"][1] == two[0][1]["likelihood"][1]  # the seed that rank 0 drew


def test_likelihood_of_unequal_weights_is_refused(two):
    for found in two[0]:
        assert found["unequal"].startswith("model, guide, data: expected the same weights")


def test_bounds_over_ranks_equal_those_of_one_process(two):
    for value, *found in zip(cases.bounds(), *(each["bounds"] for each in two[0]), strict=True):
        for each in found:
            torch.testing.assert_close(each, value, rtol=1e-12, atol=0)


def test_shares_cover_the_rows_once_and_differ_by_one_at_most():
    for count in (1, 2, 3, 7):
        for rows in (1, 2, 5, 6, 20):
            shares = [range(rows)[Ranks(rank, count).share(rows)] for rank in range(count)]
            assert [row for share in shares for row in share] == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_says_nothing():
    alone = Ranks.present()
    assert (alone.rank, alone.count, alone.several) == (0, 1, False)
    assert alone.sum([1.5, True]) == [1.5, True]
    assert alone.gather("a") == ["a"]
    assert not torch.distributed.is_initialized()


def test_cases_are_all_compared():
    assert Path(cases.__file__).exists()
    for name in (*TRAININGS, *OTHERS):
        assert callable(getattr(cases, name))


def test_processes_outside_a_group_are_told_that_each_works_alone(monkeypatch):
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "a",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    with pytest.warns(
        UserWarning, match=r"^2 processes were started, but each does all the work alone; .*init"
    ):
        assert Ranks.present() == Ranks()
