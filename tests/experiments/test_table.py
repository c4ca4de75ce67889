"""The tables: means, deviations and differences of given rows."""

import dataclasses

import pytest
from experiments_small import row_of

from pyro_dvae.jobs.experiments import Table, plan
from pyro_dvae.jobs.experiments.pages import markdown
from pyro_dvae.jobs.experiments.results import packed
from pyro_dvae.jobs.experiments.table import headings, spent, stand_in


def rows(small, seeds=2):
    means = {"0 %": (-91.0, -93.0), "5 %": (-88.0, -88.5)}
    return [
        row_of(each, means[each.case.column][each.options.seed], training_bound=-80.0)
        for each in plan(small, seeds=seeds)
    ]


def test_published_ours_and_difference(small):
    text = markdown(small, rows(small))
    lines = text.splitlines()
    assert "ours: mean of 2 runs ± their standard deviation; difference: ours minus published." in text
    assert "| noise |  | 0 % | 5 % |" in lines
    assert "| VAE | published | 90.00 ± 0.50 | 89.00 |" in lines
    assert "|  | ours | 92.00 ± 1.41 | 88.25 ± 0.35 |" in lines
    assert "|  | difference | +2.00 | \N{MINUS SIGN}0.75 |" in lines
    assert "| VAE, K = 2 | ours | \N{EN DASH} | 88.25 ± 0.35 |" in lines
    assert "6 runs of 3 epochs on digits (10 for training), with one thread each on cpu: 3.0 hours" in text
    assert "| VAE | 0 % | 2, 2 | \N{MINUS SIGN}92.00 | \N{MINUS SIGN}80.00 |" in lines


def test_one_run_has_the_error_over_the_data(small):
    text = markdown(small, rows(small, seeds=1))
    assert "| VAE | published |" in text
    assert "|  | ours | 91.00 ± 0.10 | 88.00 ± 0.10 |" in text.splitlines()
    assert "ours: one run ± the standard error over the test data; difference" in text


def test_cells_of_different_numbers_of_runs_say_so(small):
    text = markdown(small, rows(small)[:4])
    assert "mean of 1 to 2 runs ± their standard deviation; single runs ± the standard error" in text
    assert "|  | ours | 92.00 ± 1.41 | 88.00 ± 0.10 |" in text.splitlines()


def test_a_stand_in_is_compared_with_nothing(small):
    real = dataclasses.replace(small, options={**small.options, "dataset": "mnist"})
    text = markdown(real, rows(small))
    assert "**Made on digits in place of the experiment's data" in text
    assert "published" not in text


@pytest.mark.parametrize("dataset", [None, "MNIST", "half.npy", "folder:images", "FOLDER/half.npy"])
def test_the_declared_data_are_no_stand_in(small, dataset, tmp_path, monkeypatch):
    """The default data set, a name in capitals, and the user's own data by a path of any kind."""
    monkeypatch.chdir(tmp_path)
    given = dataset and dataset.replace("FOLDER", str(tmp_path))
    declared = dataclasses.replace(small, options={**small.options, "dataset": given})
    names = {None: "mnist", "MNIST": "mnist", "folder:images": "images"}
    own = [
        row_of(each, -90.0) | {"data": {"name": names.get(dataset, "half.npy"), "sizes": [], "trained_on": 9}}
        for each in plan(declared)
    ]
    assert stand_in(declared, own) is None
    assert "| VAE | published | 90.00 ± 0.50 | 89.00 |" in markdown(declared, own).splitlines()
    other = tmp_path / "other" / "half.npy"  # has the same name
    elsewhere = [
        row_of(each, -90.0) | {"data": own[0]["data"]}
        for each in plan(declared, overrides={"dataset": str(other)})
    ]
    assert stand_in(declared, elsewhere) == own[0]["data"]["name"]


def test_digits_in_place_of_the_default_data_are_a_stand_in(small):
    declared = dataclasses.replace(small, options={"epochs": 3})
    data = {"name": "digits", "substituted_for": "mnist", "sizes": [], "trained_on": 9}
    assert stand_in(declared, [row_of(each, -90.0) | {"data": data} for each in plan(declared)]) == "digits"


def test_the_data_of_another_column_are_a_stand_in(small):
    """``--dataset frey`` for an experiment on MNIST and Frey faces."""
    cases = [
        dataclasses.replace(case, options={**case.options, "dataset": name})
        for case, name in zip(small.cases, ("digits", "mnist", "mnist"), strict=True)
    ]
    declared = dataclasses.replace(small, cases=tuple(cases))
    assert stand_in(declared, rows(small)) == "digits"
    assert headings(declared, rows(small)) == {"0 %": "0 %", "5 %": "5 % [digits]"}
    assert "| noise |  | 0 % | 5 % [digits] |" in markdown(declared, rows(small))


def test_an_estimate_shows_its_rows_and_how_far_to_trust_it(small):
    own = rows(small)
    for row in own:
        row["figures"]["bound"]["of_rows"] = packed([-80.0, -82.0, -90.0])
        row["figures"]["log_likelihood"] = {
            "mean": -70.0,
            "standard_error": 1.0,
            "share_unreliable": 0.2 * row["seed"],
            "of_rows": packed([-69.0, -71.0]),
        }
        row["figures"]["active_units"] = {"mean": 7.0 + row["seed"]}
        for name in ("test_gap", "training_gap"):
            row["figures"][name] = {"mean": 1.0, "standard_error": 0.1, "of_rows": packed([1.0, 1.0])}
    text = markdown(small, own)
    heading = next(line for line in text.splitlines() if "best epoch" in line)
    bound = "bound of the first 2 test rows"
    assert f"| log likelihood (first 2 rows) | {bound} | log likelihood: k too large |" in heading
    assert heading.count(bound) == 1
    line = next(line for line in text.splitlines() if line.startswith("| VAE | 0 % | 2, 2 |"))
    assert "| \N{MINUS SIGN}70.00 | \N{MINUS SIGN}81.00 | 10 % | 7.5 |" in line


def test_another_figure_and_rows_of_other_experiments(small):
    figure = dataclasses.replace(small, table=Table("level", figure="noise", digits=3))
    own = [row_of(each, -1.0, noise=0.0421) for each in plan(small, seeds=1)]
    own[0]["run_by"] = "other"
    text = markdown(figure, own)
    assert "| VAE, K = 2 | ours | \N{EN DASH} | 0.042 ± 0.200 |" in text.splitlines()
    for row in own:
        del row["figures"]["noise"]["standard_error"]
    assert "level; ours: one run; difference: ours minus" in markdown(figure, own)
    assert "1 of them belongs to another experiment." in text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"steps": 300.0, "training": 350.0, "measuring": 40.0, "cpu": 370.0}, 370.0),
        ({"steps": 300.0, "training": 350.0, "measuring": 40.0}, 390.0),
        ({"steps": 300.0, "training": 150.0, "measuring": 40.0, "cpu": 180.0}, 340.0),
    ],
    ids=["of its thread", "by the clock", "resumed: the other times are of its last part"],
)
def test_what_a_run_took(seconds, expected):
    assert spent({"seconds": seconds}) == expected


def test_cells_of_fewer_epochs_are_marked(small):
    text = markdown(dataclasses.replace(small, epochs=5), rows(small))
    assert "92.00 ± 1.41 \N{DAGGER}" in text
    assert "\N{DAGGER} Fewer epochs than declared. 6 runs of 3 epochs" in text
    assert "\N{DAGGER}" not in markdown(small, rows(small))


@pytest.mark.parametrize(
    ("used", "shown"), [(True, ", matrix products in bfloat16 in 1 of them:"), (False, "")]
)
def test_products_in_bfloat16_are_those_of_the_processor(small, used, shown):
    """A processor that is not faster in bfloat16 does not use it, although the option asks for it."""
    first, *others = rows(small)
    first["options"]["bfloat16"] = True
    text = markdown(small, [first | {"bfloat16": used}, *others])
    assert (shown in text) if shown else ("bfloat16" not in text)
