import dataclasses
from itertools import pairwise

import pytest

from pyro_dvae.errors import InputError
from pyro_dvae.training.learning_rates import SCHEDULES, Stages, Staircase, describe, learning_rate_schedule


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 3, 7, 10, 60, 5000])
def test_every_named_schedule_starts_at_one_never_rises_and_stays_positive(name, epochs):
    factors = [learning_rate_schedule(name)(epoch, epochs) for epoch in range(epochs)]
    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in pairwise(factors))
    assert min(factors) >= 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_named_schedules_are_frozen_and_described_by_their_name(name):
    schedule = learning_rate_schedule(name)
    assert describe(schedule) == name
    assert dataclasses.is_dataclass(schedule)
    assert hash(schedule) == hash(dataclasses.replace(schedule))


def test_step_falls_at_60_and_85_percent():
    factors = [learning_rate_schedule("step")(epoch, 20) for epoch in range(20)]
    assert factors == [1.0] * 12 + [0.3] * 5 + [0.1] * 3


def test_paper_has_ten_equal_stages_from_one_to_a_tenth():
    factors = [learning_rate_schedule("paper")(epoch, 50) for epoch in range(50)]
    assert factors == [tenths / 10 for tenths in range(10, 0, -1) for _ in range(5)]


def test_constant_and_none_are_one():
    assert learning_rate_schedule(None) == learning_rate_schedule("constant")
    assert learning_rate_schedule("constant")(3, 5) == 1.0


def test_callables_are_accepted_and_distinguished():
    def halving(epoch, epochs):
        return 0.5**epoch

    assert learning_rate_schedule(halving) is halving
    assert "halving" in describe(halving)
    assert describe(Staircase(4)) == {"kind": "pyro_dvae.training.learning_rates.Staircase", "steps": 4}
    assert describe(Stages(((0, 1.0), (50, 0.5)))) != describe(Stages(((0, 1.0), (40, 0.5))))


def test_unknown_names_get_the_nearest_known_one():
    with pytest.raises(InputError, match=r"schedule: unknown name 'papr' \(did you mean 'paper'\?\)"):
        learning_rate_schedule("papr")
    with pytest.raises(InputError, match="schedule: expected a name or a callable"):
        learning_rate_schedule(0.1)
