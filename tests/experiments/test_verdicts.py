"""The verdicts: intervals of given rows."""

import dataclasses
import math

import pytest
from experiments_small import row_of

from pyro_dvae.jobs.experiments import experiment, plan
from pyro_dvae.jobs.experiments.declaration import Case, Claim
from pyro_dvae.jobs.experiments.pages import single_seeds, unfinished
from pyro_dvae.jobs.experiments.results import packed
from pyro_dvae.jobs.experiments.verdicts import (
    by_single_seeds,
    over_settings,
    verdict_table,
    verdicts,
)

NOISE = Claim("5 % beats none", ("VAE", "5 %"), ("VAE", "0 %"))


def found(small, by_column, claim=NOISE, seeds=2):
    declared = dataclasses.replace(small, claims=(claim,))
    rows = [row_of(each, by_column[each.case.column][each.options.seed]) for each in plan(small, seeds=seeds)]
    return verdicts(declared, rows)


def test_the_interval_is_of_the_differences_by_seed(small):
    (verdict,) = found(small, {"0 %": (-91.0, -93.0), "5 %": (-88.0, -88.0)})
    assert verdict.gain == 4.0  # of 3 and 5, whose standard error is 1
    assert verdict.half_width == pytest.approx(12.706204736, rel=1e-9)  # t with 1 degree of freedom
    assert verdict.words == "cannot be told"
    assert verdict.seeds == 2
    assert verdict.published == 1.0  # the published negative bounds are 90 and 89


def test_one_seed_has_the_errors_over_the_data(small):
    (verdict,) = found(small, {"0 %": (-91.0,), "5 %": (-90.5,)}, seeds=1)
    assert verdict.half_width == pytest.approx(1.96 * math.hypot(0.1, 0.1))
    assert verdict.words == "held"
    assert "| held (one seed) | 2 \N{MULTIPLICATION SIGN} 3 |" in verdict_table([("", verdict, 2)])


def test_one_seed_with_the_values_of_the_rows_is_compared_row_by_row(small):
    rows = [row_of(each, -90.0) for each in plan(small, seeds=1)[:2]]
    for row, values in zip(rows, ([-100.0, -80.0, -90.0], [-98.0, -79.0, -87.0]), strict=True):
        row["figures"]["bound"] |= {"mean": sum(values) / 3, "of_rows": packed(values)}
    (verdict,) = verdicts(dataclasses.replace(small, claims=(NOISE,)), rows)
    assert verdict.gain == pytest.approx(2.0)
    assert verdict.half_width == pytest.approx(1.96 / math.sqrt(3))  # of 2, 1 and 3
    assert verdict.words == "held"


def test_an_estimate_that_cannot_be_trusted_is_marked(small):
    claim = dataclasses.replace(NOISE, figure="log_likelihood")
    declared = dataclasses.replace(small, claims=(claim,))
    rows = [row_of(each, -90.0, log_likelihood=-88.0) for each in plan(small)]
    for row, share in zip(rows, (0.01, 0.05, 0.9, 0.0, 0.02, 0.9), strict=True):
        row["figures"]["log_likelihood"]["share_unreliable"] = share
    (verdict,) = verdicts(declared, rows)
    assert verdict.unreliable == 0.05
    assert "\N{DOUBLE DAGGER}" not in verdict_table([("", verdict, 2)])
    rows[3]["figures"]["log_likelihood"]["share_unreliable"] = 0.2
    (verdict,) = verdicts(declared, rows)
    table = verdict_table([("", verdict, 2)])
    assert verdict.unreliable == 0.2
    assert "| cannot be told \N{DOUBLE DAGGER} |" in table
    assert "\N{DOUBLE DAGGER} In one of the runs, the estimate" in table


def test_a_seed_whose_value_is_not_finite_is_left_out(small):
    (verdict,) = found(small, {"0 %": (-91.0, None), "5 %": (-90.5, -80.0)})
    assert (verdict.seeds, verdict.gain) == (1, 0.5)
    assert not found(small, {"0 %": (None, None), "5 %": (-90.5, -80.0)})


@pytest.mark.parametrize(
    ("five", "words"), [(-90.9, "held"), (-91.1, "cannot be told"), (-92.0, "did not hold")]
)
def test_a_margin_allows_a_loss(small, five, words):
    claim = dataclasses.replace(NOISE, margin=0.35)
    (verdict,) = found(small, {"0 %": (-91.0,), "5 %": (five,)}, claim, seeds=1)
    assert verdict.words == words


def test_the_lower_error_is_the_better(small):
    (verdict,) = found(small, {"0 %": (5.0,), "5 %": (4.0,)}, dataclasses.replace(NOISE, lower=True), seeds=1)
    assert verdict.gain == 1.0
    assert verdict.words == "held"


def test_a_claim_without_runs_and_one_of_other_data_have_no_verdict(small):
    values = {"0 %": (-91.0,), "5 %": (-90.0,)}
    declared = dataclasses.replace(small, claims=(NOISE,))
    rows = [row_of(each, values[each.case.column][0]) for each in plan(small, seeds=1)]
    assert verdicts(declared, [row for row in rows if row["column"] == "5 %"]) == []
    other = [row | {"options": row["options"] | {"dataset": "another"}} for row in rows]
    assert verdicts(declared, other) == []


def test_single_seeds_are_compared_with_all(small):
    """The differences by seed are 4, -2 and 1, with small errors: each decides, all together do not."""
    rows = []
    for each in plan(small, seeds=3):
        value = -90.0 + (4.0, -2.0, 1.0)[each.options.seed] * (each.case.column == "5 %")
        row = row_of(each, value)
        row["figures"]["bound"]["of_rows"] = packed([value - 0.5, value, value + 0.5])
        rows.append(row)
    declared = dataclasses.replace(small, claims=(NOISE,))
    ((verdict, singles),) = by_single_seeds(declared, rows)
    assert (verdict.words, verdict.seeds) == ("cannot be told", 3)
    assert [each.words for each in singles] == ["held", "did not hold", "held"]
    sentence = single_seeds([(verdict, singles)])
    assert "In 1 claims with several seeds" in sentence
    assert "3 times; in 3 of these cases" in sentence
    del rows[0]["figures"]["bound"]["of_rows"]
    assert by_single_seeds(declared, rows) == []


def of_two_settings(small, **by_cell):
    """The claim in two settings (VAE, IWAE), and rows with the values of each cell by seed."""
    declared = dataclasses.replace(
        small,
        cases=tuple(
            Case(method, f"{noise} %", {"noise": noise / 100, "particles": count})
            for method, count in (("VAE", 1), ("IWAE", 5))
            for noise in (0, 5)
        ),
        claims=tuple(
            dataclasses.replace(NOISE, better=(m, "5 %"), worse=(m, "0 %"), setting=m)
            for m in ("VAE", "IWAE")
        ),
    )
    rows = []
    for each in plan(declared, seeds=3):
        found = by_cell.get(each.case.row, {}).get(each.case.column, ())
        if each.options.seed < len(found):
            rows.append(row_of(each, found[each.options.seed]))
    return declared, rows


def test_a_claim_in_several_settings_is_judged_by_its_mean_in_each_seed(small):
    declared, rows = of_two_settings(
        small,
        VAE={"0 %": (-91.0, -92.0, -93.0), "5 %": (-90.0, -93.0, -91.0)},  # gains 1, -1, 2
        IWAE={"0 %": (-90.0, -90.0), "5 %": (-89.0, -85.0)},  # gains 1, 5; no third seed
    )
    (verdict,) = over_settings(declared, rows)
    assert [each.seeds for each in verdicts(declared, rows)] == [3, 2]
    assert (verdict.seeds, len(verdict.claims)) == (2, 2)
    assert verdict.gain == 1.5  # of 1 and 2, whose standard error is 0.5
    assert verdict.half_width == pytest.approx(12.706204736 / 2, rel=1e-9)
    text = verdict_table([("noise", verdict, 2)])
    assert "| noise | " in text
    assert "| cannot be told | 8 \N{MULTIPLICATION SIGN} 3 |" in text


def test_a_setting_without_runs_is_left_out_of_the_mean(small):
    declared, rows = of_two_settings(small, VAE={"0 %": (-91.0,), "5 %": (-90.0,)}, IWAE={"0 %": (-90.0,)})
    (verdict,) = over_settings(declared, rows)
    assert (verdict.gain, len(verdict.claims)) == (1.0, 1)


def test_settings_with_the_same_rows_are_averaged_row_by_row(small):
    declared, rows = of_two_settings(
        small, VAE={"0 %": (-90.0,), "5 %": (-90.0,)}, IWAE={"0 %": (-90.0,), "5 %": (-90.0,)}
    )
    gains = {"VAE": [2.0, 1.0, 3.0], "IWAE": [0.0, 3.0, 3.0]}  # mean by row: 1, 2, 3
    for row in rows:
        of_rows = [-90.0 + (row["column"] == "5 %") * each for each in gains[row["row"]]]
        row["figures"]["bound"] |= {"mean": sum(of_rows) / 3, "of_rows": packed(of_rows)}
    (verdict,) = over_settings(declared, rows)
    assert verdict.gain == pytest.approx(2.0)
    assert verdict.half_width == pytest.approx(1.96 / math.sqrt(3))
    del rows[0]["figures"]["bound"]["of_rows"]
    (verdict,) = over_settings(declared, rows)
    assert verdict.half_width == pytest.approx(1.96 * math.hypot(0.1, 0.1))


def test_what_is_not_finished_is_counted():
    declared = experiment("encoder-depth")
    done = [row_of(each, -91.0) for each in plan(declared)]
    few = [row | {"options": row["options"] | {"epochs": 5}} for row in done[:3]]
    assert "`encoder-depth` (0 of 12 runs)" in unfinished({})
    assert "`encoder-depth` (9 of 12 runs)" in unfinished({"encoder-depth": [*few, *done[3:]]})
    assert "encoder-depth" not in unfinished({"encoder-depth": done})
