import math

import pytest

from pyro_dvae.corruptions import BitFlip, ConstantSchedule, LinearSchedule, Schedule, StepSchedule
from pyro_dvae.errors import InputError


def test_constant():
    schedule = ConstantSchedule(0.2)
    assert [schedule(epoch) for epoch in (0, 0.5, 1000)] == [0.2] * 3
    assert schedule.levels() == (0.2,)


def test_linear():
    schedule = LinearSchedule(0.5, 0.1, 8)
    values = [schedule(epoch) for epoch in (-1, 0, 2, 4.0, 6, 8, 9, 1e9)]
    assert values == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    assert set(schedule.levels()) == {0.5, 0.1}


def test_step():
    schedule = StepSchedule({80: 0.05, 10: 0.2, 50: 0.1})
    epochs = (0, 10, 49.9, 50, 79, 80, 500)
    assert [schedule(epoch) for epoch in epochs] == [0.2, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]
    assert sorted(schedule.levels()) == [0.05, 0.1, 0.2]


def test_values_lie_in_the_hull_of_the_levels():
    for schedule in (
        ConstantSchedule(0.3),
        LinearSchedule(0.1, 0.9, 7),
        StepSchedule({0: 0.4, 3: 0.2, 5: 0.7}),
    ):
        low, high = min(schedule.levels()), max(schedule.levels())
        values = [schedule(epoch / 4) for epoch in range(50)]
        assert min(values) == pytest.approx(low)
        assert max(values) == pytest.approx(high)


def test_the_level_at_epoch_zero_is_the_start():
    assert float(BitFlip(StepSchedule({0: 0.25, 2: 0.5})).rate()) == 0.25
    assert float(BitFlip(LinearSchedule(0.75, 0.5, 2)).rate()) == 0.75


def test_a_users_schedule_may_return_whole_numbers():
    class Warm(Schedule):
        def __call__(self, epoch):
            return 0 if epoch < 5 else 0.5

        def levels(self):
            return (0, 0.5)

    corruption = BitFlip(Warm())
    assert float(corruption.rate()) == 0.0
    corruption.set_epoch(5)
    assert float(corruption.rate()) == 0.5


@pytest.mark.parametrize(
    "schedule",
    [ConstantSchedule(1.5), LinearSchedule(0.5, 1.5, 10), StepSchedule({0: 0.1, 5: 1.5})],
    ids=lambda schedule: type(schedule).__name__,
)
def test_levels_are_checked_before_their_epoch(schedule):
    with pytest.raises(InputError, match=r"^rate: expected a number in \[0, 1\], got 1.5"):
        BitFlip(schedule)


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: ConstantSchedule(math.nan), "level"),
        (lambda: LinearSchedule("a", 0.1, 5), "start"),
        (lambda: LinearSchedule(0.1, True, 5), "end"),
        (lambda: LinearSchedule(0.1, 0.2, 0), "epochs"),
        (lambda: LinearSchedule(0.1, 0.2, -3), "epochs"),
        (lambda: StepSchedule({}), "levels_from"),
        (lambda: StepSchedule({-1: 0.1}), "levels_from"),
        (lambda: StepSchedule({0: "a"}), "levels_from"),
    ],
)
def test_bad_arguments(build, argument):
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got "):
        build()
