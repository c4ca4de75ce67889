"""``pyro-dvae`` on a user's own files: its choices are reported, stored, and undone at the end."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_dvae.datasets import load_dataset

SMALL = ["--epochs", "2", "--width", "8", "--latent-size", "2", "--importance-samples", "5"]
TABLES = sorted((Path(__file__).parents[3] / "shared/data/tables").glob("*.npz"))
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_table(path="people.csv", rows=60):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "height", "weight", "colour", "smokes", "class"])
        for n in range(rows):
            height = RNG.normal(170, 10)
            colour = ("red", "green", "blue")[n % 3]
            weight = 0.9 * height - 80 + RNG.normal(0, 5)
            writer.writerow([f"r{n}", round(height, 1), round(weight, 2), colour, n % 2, "ab"[n % 2]])


def config(run="run"):
    return json.loads(Path(run, "config.json").read_text())


@pytest.mark.slow
def test_a_table_from_training_to_samples(call):
    write_table()
    chosen = ["--id-column", "id", "--label-column", "class"]
    printed = call("train", "--dataset", "people.csv", *chosen, *SMALL, "--output", "run")
    assert "4 columns: 1 binary, 2 real, 1 category; no cell is missing; standardised" in printed.err
    assert "binarisation none, likelihood table, noise-kind swap" in printed.err
    stored = config()
    assert stored["options"]["likelihood"] == "table"
    assert stored["data"]["image_shape"] is None
    assert [each["name"] for each in stored["data"]["columns"]] == ["height", "weight", "colour", "smokes"]
    pictures = {path.name for path in Path("run").glob("*.png")}
    assert pictures == {"learning_curves.png", "reconstructions.png", "column_errors.png", "codes.png"}
    call("train", "--resume", "run", "--epochs", "3", "--quiet")
    printed = call(
        "evaluate",
        "run",
        "--samples",
        "20",
        "--annealed",
        "2",
        "--simulated",
        "2",
        "--annealing-steps",
        "5",
        "--quiet",
    )
    assert "log p(x)" in printed.out
    assert "bits per dimension" not in printed.out
    assert "distributions of columns" in printed.out
    content = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert content["sample_quality"]["targets"] == [0, 1, 2, 3]
    scales = [each["factor"] for each in stored["data"]["columns"] if each["kind"] == "real"]
    original = content["log_likelihood"]["mean"] - np.log(scales).sum()
    assert f"original units          {original:.3f} nats".replace(" ", "") in printed.out.replace(" ", "")
    few = ["--annealed", "0", "--simulated", "0", "--quiet", "--output", "refined"]
    printed = call("evaluate", "run", "--samples", "200", "--refine", *few)
    assert "were above it before; rows by proposal: encoder" in printed.out
    call("sample", "run", "--count", "50")
    with open("run/samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    assert {row["colour"] for row in rows} <= {"red", "green", "blue"}
    assert 120 < np.mean([float(row["height"]) for row in rows]) < 220
    assert {float(row["smokes"]) for row in rows} <= {0.0, 1.0}
    assert "images" in call("sample", "run", "--output", "x.png", code=2).err
    call("sample", "run", "--count", "5", "--output", "x.parquet")
    assert [str(dtype) for dtype in pd.read_parquet("x.parquet").dtypes[:2]] == ["float64"] * 2
    assert pd.read_parquet("x.parquet").colour.isin(["red", "green", "blue"]).all()
    assert "column 'colour' holds text" in call("sample", "run", "--output", "x.npy", code=2).err


def test_a_table_of_two_texts_in_each_column_is_a_table(call):
    frame = pd.DataFrame({"sex": ["F", "M"] * 30, "smokes": [True, False, False] * 20})
    frame.to_csv("two.csv", index=False)
    printed = call("train", "--dataset", "two.csv", *SMALL, "--output", "run")
    assert "likelihood table, noise-kind swap" in printed.err
    call("sample", "run", "--count", "40", "--output", "drawn.csv")
    assert set(pd.read_csv("drawn.csv").sex) == {"F", "M"}


@pytest.mark.parametrize("kind", ["count", "ordinal"])
def test_a_declared_kind_of_zeros_and_ones_is_followed(call, kind):
    pd.DataFrame({"a": [0, 1] * 30, "b": [0, 1, 1] * 20}).to_csv("two.csv", index=False)
    printed = call("train", "--dataset", "two.csv", "--kinds", f"a={kind}", *SMALL, "--output", "run")
    assert "likelihood table" in printed.err


def test_rows_of_a_table_are_drawn_not_averaged(call):
    rows = np.stack([RNG.normal(5, 3, 100), RNG.random(100) < 0.5], 1)
    pd.DataFrame(rows, columns=["a", "b"]).astype({"b": int}).to_csv("x.csv", index=False)
    call("train", "--dataset", "x.csv", *SMALL, "--output", "run", "--quiet")
    call("sample", "run", "--count", "1000", "--output", "drawn.csv")
    drawn = pd.read_csv("drawn.csv")
    assert drawn.a.std() == pytest.approx(rows[:, 0].std(), rel=0.25)  # of the means: below 1
    assert set(drawn.b) == {0, 1}


def test_a_likelihood_of_numbers_refuses_categories(call):
    write_table()
    chosen = ["--drop", "id,class", "--likelihood", "gaussian-columns"]
    printed = call("train", "--dataset", "people.csv", *chosen, *SMALL, code=2)
    assert "gaussian-columns is for numbers, but the data have categories; use 'table'" in printed.err
    printed = call("train", "--dataset", "digits", "--likelihood", "table", *SMALL, code=2)
    assert "'table' is for a file with columns" in printed.err


def test_numbers_alone_get_a_scale_for_each_column(call):
    np.savez("numbers.npz", X=RNG.normal(5, 3, (60, 4)))
    printed = call("train", "--dataset", "numbers.npz", *SMALL, "--output", "run")
    assert "likelihood gaussian-columns, noise-kind masking" in printed.err


def test_columns_that_changed_are_refused_on_resume(call):
    write_table()
    call("train", "--dataset", "people.csv", "--drop", "id", *SMALL, "--output", "run", "--quiet")
    write_table()  # other values: other scales
    assert "data: columns was" in call("train", "--resume", "run", "--epochs", "4", code=2).err


def test_whole_numbers_are_refused_with_the_remedies(call):
    np.save("counts.npy", RNG.integers(0, 241, (50, 6)))
    printed = call("train", "--dataset", "counts.npy", *SMALL, code=2)
    assert "--scale bytes (divided by 255), --scale none (counts, as they are)" in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    printed = call("train", "--dataset", "counts.npy", "--scale", "bytes", *SMALL, "--output", "run")
    assert "binarisation none, likelihood continuous-bernoulli" in printed.err


def test_grey_values_are_binarised_only_when_asked(call):
    np.save("grey.npy", RNG.random((50, 4, 4)))
    call("train", "--dataset", "grey.npy", *SMALL, "--output", "as-they-are", "--quiet")
    options = config("as-they-are")["options"]
    assert (options["binarisation"], options["likelihood"]) == ("none", "continuous-bernoulli")
    asked = ["--binarisation", "static"]
    printed = call("train", "--dataset", "grey.npy", *asked, *SMALL, "--output", "asked")
    assert "chosen by the values, from 0.00" in printed.err
    assert "likelihood bernoulli" in printed.err
    given = ["--likelihood", "gaussian"]
    call("train", "--dataset", "grey.npy", *given, *SMALL, "--output", "given", "--quiet")
    assert config("given")["options"]["likelihood"] == "gaussian"


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli", "continuous-bernoulli"])
def test_values_without_a_probability_are_refused_before_a_folder_is_made(call, likelihood):
    rows = RNG.integers(0, 2, (50, 3)).astype(float)
    rows[-1, 0] = -2
    np.save("rows.npy", rows)
    options = ["--scale", "none", "--likelihood", likelihood, *SMALL]
    printed = call("train", "--dataset", "rows.npy", *options, "--output", "run", code=2)
    assert "support of the likelihood" in printed.err
    assert "got values from -2 to 1" in printed.err
    assert not Path("run").exists()


def test_a_single_row_has_no_standard_error(call):
    np.save("rows.npy", RNG.random((3, 4)))
    printed = call("train", "--dataset", "rows.npy", *SMALL, "--output", "run")
    assert "± n/a nats" in printed.out
    assert json.loads(Path("run/results.json").read_text())["test_bound"]["standard_error"] is None
    assert "± n/a nats" in call("info", "run").out


def test_options_for_files_are_refused_of_named_data(call):
    printed = call("train", "--dataset", "digits", "--scale", "bytes", *SMALL, code=2)
    assert "only for your own files" in printed.err


def test_counts_as_they_are(call):
    np.save("counts.npy", RNG.poisson(3.0, (50, 6)))
    printed = call("train", "--dataset", "counts.npy", "--scale", "none", *SMALL, "--output", "run")
    assert "likelihood negative-binomial, noise-kind thinning" in printed.err
    call("sample", "run", "--count", "20", "--pixels", "--output", "x.npy")
    drawn = np.load("x.npy")
    assert (drawn == drawn.round()).all()
    assert drawn.min() >= 0
    assert drawn.sum(1).mean() == pytest.approx(18, abs=6)  # the mean total of a row


@pytest.mark.slow
@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
def test_every_public_table_trains_by_the_command_alone(call, path):
    printed = call("train", "--dataset", path, "--epochs", "100", "--output", "run")
    assert "array 'X'; labels 'y';" in printed.err
    assert "chosen by the values" in printed.err
    if "values as they are" in printed.err:  # all of them in [0, 1]
        return
    assert "standardised by the training rows" in printed.err
    results = json.loads(Path("run/results.json").read_text())
    raw = load_dataset(path)
    # Better than an independent normal distribution of each column, the value of standardised data.
    independent = torch.distributions.Normal(0, 1).log_prob(raw.test).sum(1).mean()
    assert results["importance_weighted_bound"]["mean"] > float(independent)
