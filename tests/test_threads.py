"""The number of threads and its restoration; freed memory."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from pyro_dvae import machine


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(machine, "_quota", lambda: float("inf"))


@pytest.mark.parametrize(("operations", "expected"), [(0, 1), (1e6, 1), (240e6, 6), (1e9, 25), (1e12, 64)])
def test_small_steps_get_few_threads(many, operations, expected):
    assert machine.threads_for(operations) == expected


def test_a_quota_and_the_users_own_number_are_kept(many, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_quota", lambda: 2.5)
    assert machine.available_cores() == 3
    assert machine.threads_for(1e12) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine.threads_for(1e12) == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", float("inf")), ("150000 100000\n", 1.5), ("odd", float("inf"))]
)
def test_the_quota_of_a_container(monkeypatch, tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    assert machine._quota() == expected
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "absent")
    assert machine._quota() == float("inf")


@pytest.mark.parametrize(("vendor", "expected"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_the_maker_of_the_processor(monkeypatch, tmp_path, vendor, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path / "cpuinfo")
    assert machine.is_intel.__wrapped__() == expected
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path / "absent")  # not on Linux
    monkeypatch.setattr(machine.platform, "processor", lambda: f"Family 6, {vendor}")
    assert machine.is_intel.__wrapped__() == expected


def test_the_number_is_put_back_after_an_error():
    before = torch.get_num_threads()

    def failing():
        with machine.using_threads(1):
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert torch.get_num_threads() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")
def test_freed_memory_is_reused_without_page_faults():
    code = (
        "import resource, torch; from pyro_dvae.machine import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "def turn(): return [torch.ones(6 * 2**20) for _ in range(4)] and None\n"
        "for _ in range(20): turn()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): turn()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # of the 24,576 pages of a turn; without it, often all of them
