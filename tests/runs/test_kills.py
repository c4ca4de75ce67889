"""Runs that are killed at every file event and at random moments resume and end as uninterrupted ones."""

import json
import os
import subprocess
import sys

import killed_runs
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the runs")


def campaign(folder, kills, ranks, seed=0, timeout=600):
    command = [sys.executable, killed_runs.__file__, folder, kills, ranks, seed]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == [], "\n".join(found["wrong"])
    assert found["kills"] >= kills
    return found


@pytest.mark.slow
def test_nothing_killed_is_dead_or_unequal(tmp_path):
    found = campaign(tmp_path, 5, 1)
    assert found["at_events"] >= 1
    assert found["resumes"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "kills"), [(1, 200), (2, 30)])
def test_nothing_killed_is_dead_or_unequal_many_times(ranks, kills, tmp_path):
    print(campaign(tmp_path, kills, ranks, timeout=3600))
