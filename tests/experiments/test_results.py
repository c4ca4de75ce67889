"""The results file loses no finished result and accepts no broken one."""

import base64
import json

import numpy as np
import pytest
from experiments_small import row_of

import pyro_dvae as dv
from pyro_dvae.jobs.experiments import plan
from pyro_dvae.jobs.experiments.declaration import alternatives
from pyro_dvae.jobs.experiments.results import (
    RESULTS,
    append,
    finished,
    of_others,
    of_table,
    packed,
    read,
    unpacked,
)


def test_rows_come_back_in_order(tmp_path, small):
    rows = [row_of(each, -float(n)) for n, each in enumerate(plan(small))]
    for row in rows:
        append(tmp_path, row)
    assert read(tmp_path) == rows
    assert len((tmp_path / RESULTS).read_text().splitlines()) == len(rows)
    assert finished(rows, plan(small, seeds=1)).keys() == {each.key for each in plan(small, seeds=1)}


def test_no_file_no_rows(tmp_path):
    assert read(tmp_path) == []


def test_an_incomplete_line_is_ignored_and_overwritten(tmp_path, small):
    rows = [row_of(each, 1.0) for each in plan(small)]
    append(tmp_path, rows[0])
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"key": "abc", "fig')
    assert read(tmp_path) == rows[:1]
    append(tmp_path, rows[1])
    assert read(tmp_path) == rows[:2]


def test_a_file_of_something_else_is_refused_and_kept(tmp_path):
    path = tmp_path / RESULTS
    path.write_text('not json\n{"key": "a", "figures": {}}\n')
    with pytest.raises(dv.DataError, match=r"line 1 of .* is not the result of a run"):
        read(tmp_path)
    with pytest.raises(dv.DataError):
        append(tmp_path, {"key": "b", "figures": {}})
    assert path.read_text().startswith("not json")


def test_an_empty_line_is_no_row_and_a_row_without_measures_is_refused(tmp_path, small):
    row = row_of(plan(small)[0], 1.0)
    append(tmp_path, row)
    path = tmp_path / RESULTS
    path.write_text(path.read_text() + "\n")
    assert read(tmp_path) == [row]
    del row["measures"]
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(dv.DataError, match=r"line 1 of .* is not the result of a run"):
        read(tmp_path)


def test_what_is_not_finite_is_null(tmp_path, small):
    row = row_of(plan(small)[0], float("nan"))
    append(tmp_path, row)
    assert json.loads((tmp_path / RESULTS).read_text())["figures"]["bound"]["mean"] is None


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        ([-65504.0, -1405.3, 0.1], 2, np.array([-65504.0, -1405.3, 0.1], np.float16)),
        ([-70000.0, -1405.3, 0.1], 4, np.array([-70000.0, -1405.3, 0.1], np.float32)),
        ([-np.inf, -1405.3], 2, [-np.inf, -1405.0]),
    ],
)
def test_values_of_rows_are_in_half_precision_unless_one_is_too_large(given, size, expected):
    text = packed(given)
    np.testing.assert_array_equal(unpacked(text), np.asarray(expected, np.float64))
    assert len(base64.b64decode(text.rpartition(":")[2])) == size * len(given)


def test_a_run_that_was_measured_less_is_not_finished(small):
    planned = plan(small)[0]
    row = row_of(planned, 1.0)
    assert finished([row], [planned])
    assert not finished([row | {"measures": []}], [planned])


def test_rows_of_the_same_run_elsewhere_are_taken_over(tmp_path, small):
    planned = plan(small)
    append(tmp_path / "other", row_of(planned[0], -3.0) | {"experiment": "other", "row": "x", "column": "y"})
    taken = of_others(tmp_path / "small", planned)
    assert [(row["row"], row["column"], row["run_by"]) for row in taken] == [("VAE", "0 %", "other")]
    assert taken[0]["experiment"] == "small"
    assert not of_others(tmp_path / "other", planned)


def test_a_broken_file_of_another_experiment_is_left_out(tmp_path, small):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / RESULTS).write_text("{}\n{}\n")
    with pytest.warns(UserWarning, match=r"other/results.jsonl is not the result of a run; its runs are not"):
        assert of_others(tmp_path / "small", plan(small)) == []


def test_a_table_has_one_row_for_each_case_and_seed(small):
    """The preferred one of several, all seeds, and the labels that the case has now."""
    exact, rounded = (plan(small, seeds=1, overrides={"bfloat16": b}) for b in (False, True))
    short = plan(small, seeds=1, epochs=2)
    rows = [row_of(each, -1.0) | {"row": "an older label"} for each in (*short, *rounded[:2], *exact[:1])]
    rows += [row_of(each, -2.0) for each in plan(small, seeds=4) if each.options.seed == 3]

    def chosen(**options):
        found = of_table(rows, alternatives(small, seeds=4, **options))
        return [(row["row"], row["seed"], row["epochs"], row["options"]["bfloat16"]) for row in found]

    assert chosen() == [
        ("VAE", 0, 3, False),
        ("VAE", 0, 3, True),
        *[(case.row, 3, 3, False) for case in small.cases],
    ]
    assert chosen(overrides={"bfloat16": True})[0] == ("VAE", 0, 3, True)
    assert chosen(epochs=(None, 2))[2] == ("VAE, K = 2", 0, 2, False)
    assert chosen(epochs=(2,)) == [(case.row, 0, 2, False) for case in small.cases]
