"""``pyro-dvae encode | reconstruct | denoise | score``: rows of a file through a run."""

import csv
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import call as run

import pyro_dvae as dv
from pyro_dvae.datasets.array_scale import ArrayScale
from pyro_dvae.jobs.converted_rows import ConvertedRows, rows_of
from pyro_dvae.jobs.folder import read_config
from pyro_dvae.jobs.tables import write_table

RNG = np.random.default_rng(0)
SMALL = ["--epochs", "3", "--width", "8", "--latent-size", "2", "--importance-samples", "0", "--quiet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on a table with names, one on grey images, and their files."""
    folder = tmp_path_factory.mktemp("applying")
    height = RNG.normal(170, 10, 60)
    table = {"id": [f"r{n}" for n in range(60)], "height": height, "weight": 0.9 * height - 80}
    with open(folder / "people.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    np.save(folder / "grey.npy", RNG.integers(0, 256, (50, 4, 4)).astype(np.uint8))
    people, grey, output = folder / "people.csv", folder / "grey.npy", ["--output"]
    run("train", "--dataset", people, "--id-column", "id", *SMALL, *output, folder / "people")
    run("train", "--dataset", grey, "--scale", "bytes", *SMALL, *output, folder / "grey")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_codes_with_the_rows_names(made):
    run("encode", made / "people", made / "people.csv")
    rows = read("encode.csv")
    assert list(rows[0]) == ["id", "z0", "z1"]
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(60)]
    fitted = dv.load(made / "people")
    given = rows_of(read_config(made / "people"), made / "people.csv")
    codes = fitted.encode(given.rows)["z"]
    run("encode", made / "people", made / "people.csv", "--samples", "5", code=2)  # it would have no effect
    found = torch.tensor([[float(row["z0"]), float(row["z1"])] for row in rows])
    torch.testing.assert_close(found, codes)


def test_whole_names_stay_whole_beside_a_missing_one(made):
    people = pd.read_csv(made / "people.csv")
    people["id"] = [np.nan, *range(7, 66)]
    people.to_csv("people.csv", index=False)
    run("encode", made / "people", "people.csv")
    assert [row["id"] for row in read("encode.csv")] == ["", *map(str, range(7, 66))]


def test_columns_are_found_by_name_in_any_order(made):
    rows = read(made / "people.csv")
    with open("other.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["weight", "note", "height", "id"])
        writer.writerows([row["weight"], "x", row["height"], row["id"]] for row in rows)
    run("encode", made / "people", made / "people.csv", "--output", "a.npy")
    run("encode", made / "people", "other.csv", "--output", "b.npy")
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))


@pytest.mark.parametrize("verb", ["reconstruct", "denoise"])
def test_values_come_back_in_the_units_of_the_data(made, verb):
    run(verb, made / "people", made / "people.csv", "--samples", "5")
    heights = [float(row["height"]) for row in read(f"{verb}.csv")]
    assert 140 < np.mean(heights) < 200
    run(verb, made / "grey", made / "grey.npy", "--output", "x.npy")
    images = np.load("x.npy")
    assert images.shape == (50, 4, 4)
    assert 50 < images.mean() < 200
    assert images.min() >= 0


def test_every_format_holds_the_same_rows(made):
    for verb in ("encode", "reconstruct", "denoise", "score"):
        draws = [] if verb == "encode" else ["--samples", "30"]
        for suffix in (".csv", ".parquet", ".npy"):
            run(verb, made / "people", made / "people.csv", *draws, "--output", f"{verb}{suffix}")
        table, frame = pd.read_csv(f"{verb}.csv"), pd.read_parquet(f"{verb}.parquet")
        assert list(frame.columns) == list(table.columns)
        assert list(frame.id) == [f"r{n}" for n in range(60)]
        numbers = frame.drop(columns="id").to_numpy()
        assert np.array_equal(np.load(f"{verb}.npy"), numbers)
        np.testing.assert_allclose(table.drop(columns="id").to_numpy(), numbers, rtol=1e-6)


def test_samples_of_missing_cells_given_the_others(made):
    rows = pd.read_csv(made / "people.csv")
    rows.loc[::2, "weight"] = np.nan
    rows.to_csv("gaps.csv", index=False)
    given = ["--given", "gaps.csv", "--count", "40", "--output", "draws.parquet"]
    run("sample", made / "people", *given)
    drawn = pd.read_parquet("draws.parquet")
    assert list(drawn.columns) == ["draw", "id", "height", "weight"]
    assert len(drawn) == 40 * 60
    both = drawn.merge(rows, on="id", suffixes=("", "_given"))
    np.testing.assert_array_equal(both.height, both.height_given)
    spread = drawn.groupby("id", sort=False).weight.std()
    assert (spread[::2] > 0.1).all()
    assert (spread[1::2] == 0).all()


def test_samples_of_bytes_are_in_bytes(made):
    run("sample", made / "grey", "--count", "7", "--output", "x.parquet")
    values = pd.read_parquet("x.parquet").to_numpy()
    assert values.shape == (7, 16)
    assert 50 < values.mean() < 200


def test_scores_are_densities_of_the_original_units(made):
    run("score", made / "people", made / "people.csv", "--samples", "200")
    scores = [float(row["log_likelihood"]) for row in read("score.csv")]
    fitted = dv.load(made / "people")
    config = read_config(made / "people")
    given = rows_of(config, made / "people.csv")
    scaled = fitted.log_likelihood(given.rows, num_samples=200, seed=0).log_likelihood
    factor = np.log([each["factor"] for each in config["data"]["columns"]]).sum()
    assert np.allclose(scores, scaled.numpy() - factor, atol=1e-4)


SCALES = [("float", "standardise"), ("float", "unit"), ("uint8", "bytes")]


@pytest.mark.filterwarnings("ignore:the missing cells")
@pytest.mark.parametrize(("kind", "scale"), SCALES)
def test_values_and_scores_of_images_are_in_the_units_of_the_file(kind, scale):
    images = (120 + 40 * RNG.normal(0, 1, (60, 1, 1)) + 5 * RNG.normal(0, 1, (60, 2, 3))).clip(0, 255)
    images = images.astype(kind)
    np.save("images.npy", images)
    options = ["--scale", scale, "--likelihood", "gaussian-columns", *SMALL, "--learning-rate", "0.05"]
    run("train", "--dataset", "images.npy", *options, "--output", "run")
    train = np.float64(images[dv.datasets.base.permuted_split(60, (48, 6, 6), 0)[0]])
    low, high = train.min(), train.max()
    offset, factor = {
        "bytes": (0, 255),
        "unit": (low, high - low),
        "standardise": (train.mean(), train.std()),
    }[scale]
    scaled = torch.from_numpy((images.reshape(60, 6) - offset) / factor).float()
    fitted, settings = dv.load("run"), ["--samples", "50"]

    run("score", "run", "images.npy", *settings)
    expected = fitted.log_likelihood(scaled, num_samples=50, seed=0).log_likelihood - 6 * np.log(factor)
    np.testing.assert_allclose(pd.read_csv("score.csv").log_likelihood, expected, rtol=1e-4, atol=1e-3)
    for verb in ("reconstruct", "denoise"):
        run(verb, "run", "images.npy", *settings, "--output", "x.npy")
        expected = offset + factor * getattr(fitted, verb)(scaled, num_samples=50, seed=0).numpy()
        np.testing.assert_allclose(np.load("x.npy"), expected.reshape(60, 2, 3), rtol=1e-4)
    run("encode", "run", "images.npy", "--output", "x.npy")
    np.testing.assert_allclose(np.load("x.npy"), fitted.encode(scaled, seed=0)["z"], rtol=1e-4, atol=1e-5)
    run("sample", "run", "--count", "9", "--output", "x.npy")
    expected = offset + factor * fitted.sample(9, values=False, seed=0).numpy()
    np.testing.assert_allclose(np.load("x.npy"), expected.reshape(9, 2, 3), rtol=1e-4)
    gaps = np.float64(images)
    gaps[0, 0, 0] = np.nan
    np.save("gaps.npy", gaps)
    run("impute", "run", "gaps.npy", *settings, "--output", "x.npy")
    scaled[0, 0] = torch.nan
    filled = fitted.condition(scaled, num_samples=50, seed=0).filled("mean")[0, 0]
    found = np.load("x.npy")
    assert found[0, 0, 0] == pytest.approx(offset + factor * float(filled), rel=1e-4)
    found[0, 0, 0] = gaps[0, 0, 0]
    np.testing.assert_array_equal(found, gaps)
    limits = read_config("run")["data"]["limits"]
    assert limits == pytest.approx([0, 255] if scale == "bytes" else [low, high], abs=1e-3)


def test_bytes_have_the_same_scores_in_an_array_and_a_table():
    pixels = RNG.integers(0, 256, (60, 6)).astype(np.uint8)
    pixels[:, 0] = 0  # a border: bytes too
    np.save("x.npy", pixels)
    pd.DataFrame(pixels).to_csv("x.csv", index=False)
    scores = []
    for name in ("x.npy", "x.csv"):
        run("train", "--dataset", name, "--scale", "bytes", *SMALL, "--output", f"run-{name}")
        run("score", f"run-{name}", name, "--samples", "50")
        scores.append(pd.read_csv("score.csv").log_likelihood)
    np.testing.assert_allclose(*scores, rtol=1e-5)
    fitted = dv.load("run-x.npy")
    scaled = fitted.log_likelihood(torch.from_numpy(pixels / 255).float(), num_samples=50, seed=0)
    np.testing.assert_allclose(scores[0], scaled.log_likelihood - 6 * np.log(255), rtol=1e-5)


def test_probabilities_have_no_units():
    np.save("x.npy", RNG.integers(0, 256, (60, 2, 3)).astype(np.uint8))
    options = ["--scale", "bytes", "--likelihood", "discretised-logistic", *SMALL]
    run("train", "--dataset", "x.npy", *options, "--output", "run")
    run("score", "run", "x.npy", "--samples", "50")
    scaled = torch.from_numpy(np.load("x.npy").reshape(60, 6) / 255).float()
    expected = dv.load("run").log_likelihood(scaled, num_samples=50, seed=0).log_likelihood
    np.testing.assert_allclose(pd.read_csv("score.csv").log_likelihood, expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:the missing cells")
@pytest.mark.slow
def test_colours_last_are_the_same_rows_as_colours_first(capsys):
    first = RNG.random((60, 3, 2, 5)) * np.array([1, 0.5, 0.1])[:, None, None]
    last, found = np.moveaxis(first, 1, 3), {}
    for name, images in (("first", first), ("last", last)):
        np.save(f"{name}.npy", images)
        gaps = images.copy()
        gaps.reshape(60, -1)[:, 0] = np.nan  # the red of the first pixel in both
        np.save(f"{name}-gaps.npy", gaps)
        run("train", "--dataset", f"{name}.npy", *SMALL, "--output", name)
    for own, file in (("first", "first"), ("last", "last"), ("last", "first")):
        for verb in ("score", "encode", "reconstruct", "denoise", "impute"):
            given = f"{file}-gaps.npy" if verb == "impute" else f"{file}.npy"
            draws = [] if verb == "encode" else ["--samples", "50"]
            run(verb, own, given, *draws, "--output", "x.npy")
            values = np.load("x.npy")
            if verb in ("reconstruct", "denoise", "impute"):
                assert values.shape == (first if file == "first" else last).shape
                values = values if file == "first" else np.moveaxis(values, 3, 1)
            np.testing.assert_allclose(values, found.setdefault(verb, values), rtol=1e-4, atol=1e-5)
    run("sample", "last", "--count", "4", "--output", "x.npy")
    assert np.load("x.npy").shape == (4, 3, 2, 5)
    np.save("turned.npy", first.swapaxes(2, 3))
    run("score", "last", "turned.npy", code=2)
    assert "expected images of [3, 2, 5], as in the run's data" in capsys.readouterr().err


@pytest.mark.filterwarnings("always:.*cross-entropy")
def test_grey_rows_of_a_bernoulli_decoder_have_a_cross_entropy(capsys):
    grey = RNG.random((60, 4))
    np.save("grey.npy", grey)
    np.save("binary.npy", grey.round())
    run("train", "--dataset", "grey.npy", "--binarisation", "static", *SMALL, "--output", "run")
    for name, count in (("grey.npy", 1), ("binary.npy", 0)):
        capsys.readouterr()
        run("score", "run", name, "--samples", "50")
        assert capsys.readouterr().err.count("log_likelihood is a cross-entropy, not log p(x)") == count


def test_a_run_is_loaded_with_its_best_weights_in_evaluation_mode(made):
    fitted = dv.load(made / "grey")
    assert not fitted.model.training
    assert len(fitted.history.epochs) == 3
    assert fitted.sample(3, seed=0).shape == (3, 16)
    with pytest.raises(dv.InputError, match="a run folder is complete; leave them out"):
        dv.load(made / "grey", model=fitted.model, guide=fitted.guide)
    shutil.copytree(made / "grey", "copy")
    Path("copy/checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(dv.CheckpointError):
        dv.load("copy")


def test_missing_cells_are_filled_in_the_units_of_the_data(made):
    rows = read(made / "people.csv")
    with open("gaps.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "height", "weight"])
        for n, row in enumerate(rows):
            writer.writerow([row["id"], row["height"], "" if n % 2 else row["weight"]])
    run("impute", made / "people", "gaps.csv", "--samples", "200")
    filled = read("impute.csv")
    assert [row["id"] for row in filled] == [row["id"] for row in rows]
    for n, (a, b) in enumerate(zip(filled, rows, strict=True)):
        assert a["height"] == b["height"]  # to the last digit
        if n % 2 == 0:
            assert a["weight"] == b["weight"]
    weights = [float(row["weight"]) for row in filled[1::2]]
    assert 40 < np.mean(weights) < 100


def test_what_does_not_fit_is_refused_in_one_line(made, capsys):
    np.save("small.npy", np.zeros((5, 9)))
    np.save("gaps.npy", np.full((5, 16), np.nan))
    np.save("unit.npy", RNG.random((5, 16)))
    for name, array in (
        ("texts", np.array([["a"] * 16])),
        ("scalar", np.float64(1)),
        ("none", np.zeros((0, 16))),
    ):
        np.save(f"{name}.npy", array)
    np.save("complex.npy", np.zeros((5, 16), complex))
    Path("other.csv").write_text("height\n170\n160\n")
    cases = [
        (
            ["encode", made / "grey", "small.npy"],
            "expected 16 values per row, as in the run's data, got 9",
        ),
        (["encode", made / "grey", "gaps.npy"], "NaN or infinite"),
        (["encode", made / "grey", "unit.npy"], "expected bytes from 0 to 255, as in the run's data"),
        (["encode", made / "grey", "texts.npy"], "expected numbers, got the dtype <U1"),
        (["encode", made / "grey", "complex.npy"], "expected numbers, got the dtype complex128"),
        (["encode", made / "grey", "scalar.npy"], "expected an array [N, D]"),
        (["encode", made / "grey", "none.npy"], "expected at least one value, got the shape [0, 16]"),
        (["encode", made / "grey", made / "people.csv"], "column 'id' holds texts"),
        (["score", made / "people", "other.csv"], "there is no column 'weight'; it has height"),
        (["score", made / "people", "missing.csv"], "no such file"),
        (["score", made / "people", "rows.txt"], "expected a file ending in one of"),
        (
            ["encode", made / "people", made / "people.csv", "--output", "x.png"],
            "ending in .csv, .parquet or .npy",
        ),
        (["impute", made / "people", made / "people.csv"], "no cell is missing"),
        (["impute", made / "people", "own.csv", "--output", "./own.csv"], "is the file that is read"),
        (
            ["sample", made / "people", "--given", "own.csv", "--output", "own.csv"],
            "is the file that is read",
        ),
        (["score", made / "people", "own.csv", "--output", "own.csv/x.csv"], "cannot write own.csv/x.csv"),
        (["denoise", made, made / "people.csv"], "it is not a run folder"),
    ]
    own = "height,weight\n170,\n160,70\n"
    Path("own.csv").write_text(own)
    capsys.readouterr()
    for command, words in cases:
        run(*command, code=2)
        printed = capsys.readouterr().err
        assert words in printed
        assert len(printed.strip().splitlines()) == 1
    assert Path("own.csv").read_text() == own


@pytest.mark.parametrize(
    ("cells", "filling", "expected"),
    [
        ([True, None, False], np.full(3, 0.7), [True, True, False]),
        ([True, None, False], np.array(["True"] * 3), [True, True, False]),  # declared categorical
        (np.array([1.0, 2.0, np.nan]), np.array(["3"] * 3), [1.0, 2.0, 3.0]),
        (np.array([1.0, 2.0, np.nan]), np.array(["A"] * 3), ["1", "2", "A"]),
        ([1, None, 2], np.array(["3"] * 3), [1, 3, 2]),  # a categorical of pandas
        (["b", None, "a"], np.array(["c"] * 3), ["b", "c", "a"]),
        ([date(2026, 1, 1), None], np.array(["2026-01-02"] * 2), [date(2026, 1, 1), date(2026, 1, 2)]),
        ([None, None], np.array(["2026-01-02"] * 2), ["2026-01-02", "2026-01-02"]),
        (np.array([0.1, np.nan, 0.3]), np.ones(3), [0.1, 1.0, 0.3]),
    ],
)
def test_imputed_cells_have_the_type_of_their_column(cells, filling, expected):
    cells = cells if isinstance(cells, np.ndarray) else np.array(cells, dtype=object)
    rows = torch.from_numpy(np.where(pd.isna(cells), np.nan, 0.0))[:, None]
    found = ConvertedRows(rows, ArrayScale(0.0, 1.0, 1), {}, {"x": cells}).with_observed({"x": filling})
    assert found["x"].tolist() == expected
    assert [type(cell) for cell in found["x"].tolist()] == [type(cell) for cell in expected]
    assert (found["x"].dtype == bool) == isinstance(expected[0], bool)  # so an array (.npy) can hold them
    pytest.importorskip("pyarrow")
    path = write_table(Path("x.parquet"), {}, found)
    assert pd.read_parquet(path).x.tolist() == expected


def test_whole_numbers_are_written_as_in_most_files():
    numbers = np.array([1.0, -0.0, 0.5, 1e300, 2.0**53, np.nan, np.inf, -7.0])
    path = write_table(
        Path("x.csv"), {"row": np.arange(8)}, {"x": numbers, "kind": np.array(list("abcdefgh"))}
    )
    lines = path.read_text().splitlines()
    assert lines[0] == "row,x,kind"
    assert [line.split(",")[1] for line in lines[1:]] == [
        *("1", "0", "0.5", "1e+300", "9007199254740992.0", "nan", "inf", "-7")
    ]
    np.testing.assert_array_equal(pd.read_csv(path).x, numbers)


@pytest.mark.filterwarnings("ignore:the missing cells")
def test_gaps_of_categories_are_filled(capsys, monkeypatch):
    frame = pd.DataFrame({"kind": ["01", "b", "c", "d"] * 10, "x": RNG.normal(size=40)})
    frame.to_csv("kinds.csv", index=False)
    run("train", "--dataset", "kinds.csv", *SMALL, "--no-compile", "--output", "run")
    frame.loc[:3, "kind"] = None
    frame.head(5).to_csv("gaps.csv", index=False)
    run("impute", "run", "gaps.csv", "--samples", "50")
    found = pd.read_csv("impute.csv", dtype={"kind": str})
    assert found.kind[4] == "01"
    assert set(found.kind) <= {"01", "b", "c", "d"}
    np.testing.assert_array_equal(found.x, pd.read_csv("gaps.csv").x)
    Path("one.csv").write_text("kind,x\n01,0.5\n,0.25\n")  # only 01 among its cells
    assert rows_of(read_config("run"), "one.csv", gaps=True).rows[0, 0] == 0
    commands = (["impute", "run", "gaps.csv"], ["sample", "run"], ["sample", "run", "--given", "gaps.csv"])
    for module in ("applying", "sampling"):  # refused before the model is loaded
        monkeypatch.delattr(f"pyro_dvae.jobs.{module}.load")
    for command in commands:
        printed = run(*command, "--output", "x.npy", code=2, capsys=capsys)
        assert "x.npy can hold only numbers, but column 'kind' holds text" in printed.err


def test_the_name_of_an_array_is_for_archives():
    rows = RNG.normal(size=(40, 3))
    np.savez("data.npz", a=rows, b=rows[:, :2])
    np.save("new.npy", rows[:5])
    np.savez("new.npz", a=rows[:5], c=rows)
    pd.DataFrame(rows[:5]).to_csv("new.csv", index=False)
    run("train", "--dataset", "data.npz", "--array", "a", *SMALL, "--no-compile", "--output", "named")
    found = [rows_of(read_config("named"), f"new.{kind}").rows for kind in ("npy", "npz", "csv")]
    assert all(torch.equal(each, found[0]) for each in found)


def test_rows_whose_filled_cells_are_not_reliable_are_told():
    rows = torch.tensor([[torch.nan, 1.0], [torch.nan, 2.0], [3.0, 4.0]])
    cells, figures = torch.zeros(5, 2), torch.ones(3)
    found = dv.Conditioned(
        rows, cells, cells[0], figures, figures, figures, torch.tensor([2.0, 0.1, 2.0]), 1000, None, 0
    )
    with pytest.warns(UserWarning, match=r"the missing cells of 1 row \(of 2 with gaps\) are not reliable"):
        found.warn_of_unreliable()
