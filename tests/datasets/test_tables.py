"""Tables: kinds of columns, categories, classes and ids, the inverse, and what is refused."""

import io
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_dvae.datasets import load_dataset
from pyro_dvae.datasets.columns import Column, Columns, level_of
from pyro_dvae.datasets.tables import csv_content, parquet_content, tsv_content
from pyro_dvae.datasets.treatment import Treatment
from pyro_dvae.errors import DataError

ROWS = 40
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "id": [f"r{n}" for n in range(ROWS)],
        "height": RNG.normal(170, 10, ROWS).round(2),
        "rooms": RNG.integers(1, 9, ROWS),
        "smokes": np.arange(ROWS) % 2,
        "colour": np.array(["red", "green", "blue"])[np.arange(ROWS) % 3],
        "class": np.array(["b", "a"])[np.arange(ROWS) % 2],
    }
)
CHOICES = {"id_column": "id", "label_column": "class"}


def written(tmp_path, kind="csv", frame=FRAME, **options):
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",", **options)
    return path


def load(tmp_path, text, name="x.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_dataset(path, **options)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_every_kind_of_column(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    data = load_dataset(written(tmp_path, kind), **CHOICES)
    assert data.columns.described() == "1 binary, 1 whole, 1 real, 1 category"
    assert data.columns.names == ("height", "rooms", "smokes", "colour")
    assert (data.dimension, data.image_shape) == (4, None)
    assert "2 classes in 'class'; rows named by 'id'; 4 columns:" in data.source
    assert "no cell is missing; standardised by the training rows" in data.source
    # Every row is found again, in its own columns and units.
    back = [data.columns.back(part) for part in (data.train, data.validation, data.test)]
    found = pd.concat([pd.DataFrame(part) for part in back])
    found["class"] = torch.cat([data.train_labels, data.validation_labels, data.test_labels]).numpy()
    wanted = FRAME.drop(columns="id").assign(**{"class": (FRAME["class"] == "b").astype(int)})
    keys = ["height", "rooms"]
    found = found.assign(height=found["height"].round(2), rooms=found["rooms"].round()).sort_values(keys)
    wanted = wanted.sort_values(keys)
    assert np.allclose(found["height"], wanted["height"])
    for name in ("rooms", "smokes", "class"):
        assert np.allclose(found[name], wanted[name])
    assert found["colour"].tolist() == wanted["colour"].tolist()


def test_scales_are_of_the_training_rows_and_leave_zeros_and_ones(tmp_path):
    data = load_dataset(written(tmp_path), **CHOICES)
    height, _, smokes, colour = data.train.double().T
    assert float(height.mean()) == pytest.approx(0, abs=1e-5)
    assert float(height.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert set(smokes.tolist()) == {0.0, 1.0}
    assert set(colour.tolist()) == {0.0, 1.0, 2.0}
    assert data.columns.kinds() == ["real", "real", "binary", ("categorical", 3)]
    assert abs(float(data.test[:, 0].mean())) > 1e-3


def test_columns_are_chosen_in_the_order_given(tmp_path):
    data = load_dataset(written(tmp_path), columns=["smokes", "height"], scale="none")
    assert data.columns.names == ("smokes", "height")
    data = load_dataset(written(tmp_path), drop=["id", "class", "colour"])
    assert data.columns.names == ("height", "rooms", "smokes")
    array = tmp_path / "x.npy"
    np.save(array, RNG.normal(size=(20, 4)))
    data = load_dataset(array, columns=["3", "1"], scale="none")
    assert torch.equal(data.train[:, 0], load_dataset(array, scale="none").train[:, 3])


def test_the_way_back_survives_json(tmp_path):
    columns = load_dataset(written(tmp_path), **CHOICES).columns
    assert Columns.from_list(columns.as_list()) == columns
    with pytest.raises(DataError, match="columns: expected the columns of a run"):
        Columns.from_list([{"name": "x"}])
    with pytest.raises(DataError, match=r"expected 4 values in each, got shape \[2, 3\]"):
        columns.back(torch.zeros(2, 3))
    gap = columns.back(torch.tensor([[0.0, 0.0, 1.0, float("nan")]]))
    assert gap["colour"].tolist() == [""]  # a category has no mean


def test_the_density_of_original_values():
    columns = Columns((Column("a", "real", 1.0, 2.0), Column("b", "whole", 0.0, 4.0), Column("c", "binary")))
    assert columns.log_factor == pytest.approx(np.log(8))


@pytest.mark.parametrize("header", ["", "a,b,c\n", "\ufeffa,b,c\n", '"a","b","c"\n', "\n\na,b,c\n"])
def test_with_and_without_names(tmp_path, header):
    body = "0.1,0.2,0.3\n0.4,0.5,0.6\n\n0.7,0.8,0.9\n"
    data = load(tmp_path, header + body, scale="none")
    assert data.columns.names == (("a", "b", "c") if header else ("0", "1", "2"))
    rows = torch.cat([data.train, data.validation, data.test]).unique(dim=0)
    assert torch.allclose(rows, torch.arange(1.0, 10).reshape(3, 3) / 10)


def test_the_numbers_that_pandas_writes_in_place_of_names_are_names(tmp_path):
    rows = RNG.normal(size=(30, 3))
    data = load(tmp_path, pd.DataFrame(rows).to_csv(index=False))
    assert len(data.train) + len(data.validation) + len(data.test) == 30
    assert data.columns.names == ("0", "1", "2")
    assert "no names of columns, so their numbers" in data.source
    two = load(tmp_path, pd.DataFrame(rows[:, :2]).to_csv(index=False))  # may be a row
    assert len(two.train) + len(two.validation) + len(two.test) == 31


@pytest.mark.parametrize(
    "cells",
    [
        ["1,5", "2,25"],
        ["50%", "75%"],
        ["$1", "$2"],
        ["1 000", "2 000"],
        ["$1,250.50", "$900"],
        ["1.250,5", "9,5"],
    ],
)
def test_numbers_in_another_notation_are_no_categories(tmp_path, cells):
    text = pd.DataFrame({"a": RNG.normal(size=30), "b": np.array(cells)[np.arange(30) % 2]}).to_csv(
        index=False
    )
    with pytest.raises(DataError, match="column 'b' holds numbers in another notation, such as "):
        load(tmp_path, text)
    assert load(tmp_path, text, kinds={"b": "categorical"}).columns.columns[1].levels == tuple(cells)


@pytest.mark.parametrize("names", ["", "size, cm;weight, kg\n"])
def test_a_decimal_comma_does_not_separate_cells(tmp_path, names):
    text = names + "".join(f"{n % 3},5;{n % 2},25\n" for n in range(30))
    with pytest.raises(DataError, match="separated by ';', expected ','"):
        load(tmp_path, text)
    lists = "a,b\n" + "".join(f"1;{n % 3},{n}\n" for n in range(30))
    assert load(tmp_path, lists, scale="standardise").columns.columns[0].levels == ("1;0", "1;1", "1;2")
    with pytest.raises(DataError, match="column 'a' holds numbers in another notation"):  # not "separated by"
        load(tmp_path, lists.translate({ord(","): "\t", ord(";"): ","}), "x.tsv")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_numbers_that_are_names_keep_their_zeros(tmp_path, suffix):
    zips = np.array(["00501", "501", "2138"])[np.arange(30) % 3]
    ids = [f"{n:04}" for n in range(30)]
    frame = pd.DataFrame({"id": ids, "zip": zips, "size": RNG.normal(size=30), "padded": ids})
    path = written(tmp_path, suffix, frame)
    read = {"csv": csv_content, "tsv": tsv_content}[suffix]
    table = read(path, Treatment(id_column="id", kinds={"zip": "categorical"}, label_column="padded")).table
    assert table["id"].tolist() == ids
    columns = load_dataset(path, id_column="id", kinds={"zip": "categorical"}).columns
    assert columns.columns[0].levels == ("00501", "2138", "501")
    rows = columns.forward({name: table[name] for name in ("zip", "size")} | {"padded": np.arange(30)})
    assert columns.back(rows)["zip"].tolist() == zips.tolist()
    assert load_dataset(path, drop=["id", "zip"]).columns.columns[1].kind == "whole"  # numbers elsewhere


def test_a_named_index_of_a_parquet_file_is_a_column_as_in_a_text_file(tmp_path):
    pytest.importorskip("pyarrow")
    FRAME.set_index("id").to_parquet(tmp_path / "rows.parquet")
    data, same = (
        load_dataset(tmp_path / "rows.parquet", **CHOICES),
        load_dataset(written(tmp_path), **CHOICES),
    )
    assert data.columns == same.columns
    assert torch.equal(data.train, same.train)


def test_line_ends_and_suffixes(tmp_path):
    data = load(tmp_path, "0,255\r\n51,102\r\n1,2", name="x.CSV", scale="bytes")
    rows = torch.cat([data.train, data.validation, data.test]).unique(dim=0)
    assert torch.allclose(rows, torch.tensor([[0.0, 255], [1, 2], [51, 102]]) / 255)
    assert load(tmp_path, "0\n1\n0\n1\n").dimension == 1


MANY = "name,x\n" + "".join(f"n{n},{n / 7}\n" for n in range(12))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "it is empty"),
        ("\n \n", {}, "it is empty"),
        ("a,b\n", {}, "it holds a line of names, and no rows"),
        ("\na\n1.5\n\n2.5\n3.5\n\n", {}, "line 4 is blank; write NA for a missing cell, or remove the line"),
        (",a,b\n0,1.5,2\n1,2.5,3\n2,0,0\n", {}, "column 0 .* has no name; .*index=False"),
        ("a,b,\n0,1.5,\n1,2.5,\n", {}, "column 2 .* has no name"),
        ("a;b\n0,5;1\n1,5;0\n", {}, "separated by ';', expected ','; save it so"),
        ("0;1\n1;0\n0;1\n", {}, "separated by ';', expected ','"),
        ("a\tb\n0\t1\n", {}, r"separated by '\\t', expected ','; name it \.tsv"),
        ("größe\n1\n".encode("latin-1"), {}, "it is not UTF-8 text"),
        ("a\n1\n".encode("utf-16"), {}, "it is not UTF-8 text"),
        ("a,b\n0.5,1\n1.5,2\n2.5,3\n", {"label_column": "a"}, "'a' holds numbers that are not whole"),
        ("0,1\n1,0\n0,1,1\n", {}, "cannot be read as .csv .*line 3"),
        ("a,b,c\n0,1\n1,0\n0,0\n", {}, "its first line has 3 cells, the next 2"),
        ("a,a\n0,1\n1,0\n0,0\n", {}, "two columns are named 'a'"),
        ("a,b\n0,1\n1,x\n0,0\n", {}, r"column 'b' holds numbers, but in row 1 .* 'x'; correct it"),
        ("a,b\n0,1.5\n1,\n0,0.2\n", {}, r"1 cell is missing or not finite \(1 in 'b'\); fill them"),
        ("a,b\n0,1.5\n1,inf\n0,0.2\n", {}, r"1 cell is missing or not finite \(1 in 'b'\)"),
        ("a,b\n0,?\n1,NA\n0,0.2\n", {}, r"2 cells are missing or not finite \(2 in 'b'\)"),
        (MANY, {}, r"'name' has 12 different texts in 12 rows; leave it out \(--drop\)"),
        (MANY, {"columns": ["name", "y"]}, "there is no column 'y'; it has name, x"),
        (MANY, {"drop": ["x"], "id_column": "name"}, "no column is left"),
        (MANY, {"label_column": "z"}, "there is no column 'z'"),
        ("a,b\n1,200\n2,3\n5,4\n", {}, "whole numbers from 1 to 200 may be pixels, counts or classes"),
        ("a,b\n1.5,200\n2,3\n5,4\n", {"scale": "bytes"}, "--scale bytes is for whole numbers from 0 to 255"),
        ("0,1\n", {}, "at least 3 rows"),
        ("a,b\n0.5,x\n1,x\n0,x\n", {}, "column 'b' has 'x' in all rows; leave it out"),
        (b"\xff\xfe\x00\x01", {}, "it is not UTF-8 text"),
        ("a\n1e300\n-2.5e300\n0.5\n3e300\n1e299\n", {}, "the spread of its values is too large for 64-bit"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, text, **options)
    assert "\n" not in str(error.value)
    assert "x.csv" in str(error.value)


def test_columns_that_do_not_vary_are_named(tmp_path):
    text = "a,b,c\n" + "".join(f"{n / 3},7.5,{n % 2}\n" for n in range(20))
    assert load(tmp_path, text).source.endswith("; constant in the training rows: b")
    assert "constant" not in load(tmp_path, text, drop=["b"]).source


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("2019,2020,2021", "0.5,1.5,2.5", ["2019", "2020", "2021"]),
        ("2019,2020,2021", "2021,2022,2023", None),  # years are the values
        ("2019,2020,2022", "0.5,1.5,2.5", None),
        ("a,2020,2021", "0.5,1.5,2.5", ["a", "2020", "2021"]),
        ("a,b,2021", "0.5,1.5,7", ["a", "b", "2021"]),
        ("2019,0.5,1.5", "2020,1.5,2.5", None),
        ("17,18,19", "0.5,1.5,2.5", None),
    ],
)
def test_a_first_line_of_years(tmp_path, first, second, names):
    text = "\n".join([first, second, "1.5,0.25,3.5", "0.75,2.5,8.5", "2.5,1.25,9.5"])
    data = load(tmp_path, text + "\n")
    rows = len(data.train) + len(data.validation) + len(data.test)
    assert rows == len(text.splitlines()) - (names is not None)
    assert list(data.columns.names) == (names or ["0", "1", "2"])


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-3, 1e120])
def test_columns_of_any_size_have_a_spread_of_one(tmp_path, size):
    values = [(n - 8) * size / 3 for n in range(20)]
    data = load(tmp_path, "a,b\n" + "".join(f"{value!r},{n % 3}.5\n" for n, value in enumerate(values)))
    assert "constant" not in data.source
    assert abs(float(data.train[:, 0].std(correction=0)) - 1) < 1e-5


def test_numbers_and_whole_numbers_together_are_a_table(tmp_path):
    """Only a table of nothing but whole numbers may be counts, pixels or classes."""
    data = load(tmp_path, "a,b\n1.5,200\n2,3\n5,4\n7,1\n")
    assert "standardised" in data.source
    assert data.columns.described() == "1 whole, 1 real"


def test_images_have_no_columns(tmp_path):
    file = io.BytesIO()
    np.save(file, RNG.random((12, 4, 5)))
    (tmp_path / "x.npy").write_bytes(file.getvalue())
    with pytest.raises(DataError, match="columns are chosen from a table"):
        load_dataset(tmp_path / "x.npy", columns=["1"])


def test_none_is_a_level_and_a_whole_number_is_one_level_with_and_without_decimals(tmp_path):
    frame = pd.DataFrame(
        {"garage": ["None", "Attic"] * 20, "stars": [1, 2, 2, 3] * 10, "x": RNG.normal(size=ROWS)}
    )
    data = load_dataset(written(tmp_path, frame=frame), kinds={"stars": "categorical"})
    garage, stars, _ = data.columns.columns
    assert (garage.levels, stars.levels) == (("Attic", "None"), ("1", "2", "3"))
    gaps = frame.astype({"stars": "Int64"})
    gaps.loc[0, ["garage", "stars", "x"]] = [None, pd.NA, np.nan]
    for kind in ("csv", "parquet"):  # with a gap, a text file has 1.0 for 1
        content = {"csv": csv_content, "parquet": parquet_content}[kind](
            written(tmp_path, kind, gaps), Treatment()
        )
        rows = data.columns.forward(content.table)
        assert rows[0].isnan().all()
        assert rows[1:4, :2].tolist() == [[0, 1], [1, 1], [0, 2]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stars", 6, r"6 is no value of this ordinal column \(whole numbers from 1 to 5\)"),
        ("stars", 0, "0 is no value"),
        ("visits", 1.5, r"1.5 is no value of this count column \(whole numbers from 0\)"),
        ("visits", -1, "-1 is no value"),
        ("income", 0.0, r"0 is no value of this positive column \(numbers above 0\)"),
        ("x", "y", "expected numbers, got text"),
    ],
)
def test_later_values_are_of_the_kind_of_their_column(name, value, message):
    columns = Columns(
        (
            Column("stars", "ordinal", offset=1.0, size=5),
            Column("visits", "count"),
            Column("income", "positive", factor=2.0),
            Column("x", "real", offset=1.0, factor=2.0),
        )
    )
    rows = {"stars": [5, np.nan], "visits": [3, 0], "income": [0.5, 4.0], "x": [-1e9, 2.0]}
    table = {each: np.array(values, dtype=object) for each, values in rows.items()}
    assert columns.forward(table)[1].nan_to_num(9).tolist() == [9, 0, 2, 0.5]
    table[name][0] = value
    with pytest.raises(DataError, match=f"^column '{name}': {message}"):
        columns.forward(table)


def test_decimals_are_numbers(tmp_path):
    pytest.importorskip("pyarrow")
    price = [Decimal(n * n).scaleb(-2) for n in range(ROWS)]
    path = written(tmp_path, "parquet", FRAME[["height"]].assign(price=price))
    data = load_dataset(path)
    assert data.columns.described() == "2 real"
    back = [data.columns.back(part)["price"] for part in (data.train, data.validation, data.test)]
    np.testing.assert_allclose(np.sort(np.concatenate(back)), np.arange(ROWS) ** 2 / 100, atol=1e-4)
    price[3] = None
    gap = written(tmp_path, "parquet", FRAME[["height"]].assign(price=price))
    np.testing.assert_array_equal(
        parquet_content(gap, Treatment()).table["price"],
        [np.nan if n == 3 else n * n / 100 for n in range(ROWS)],
    )


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([[1.0, 2.0]] * ROWS, "ndarray"),
        ([{"a": 1}] * ROWS, "dict"),
        ([b"ab", b"c"] * (ROWS // 2), "bytes"),
        (pd.to_timedelta(np.arange(ROWS) % 3, unit="s"), "Timedelta"),
    ],
)
def test_cells_that_are_neither_numbers_nor_texts_are_refused_by_name(tmp_path, cells, kind):
    pytest.importorskip("pyarrow")
    path = written(tmp_path, "parquet", FRAME[["height", "rooms"]].assign(odd=cells))
    for options in ({}, {"label_column": "odd"}):
        with pytest.raises(DataError, match=rf"column 'odd' holds cells of the type {kind}, .*\(--drop\)"):
            load_dataset(path, **options)
    assert load_dataset(path, drop=["odd"]).columns.names == ("height", "rooms")


def test_a_column_of_bytes_is_scaled_whatever_its_values(tmp_path):
    rows = RNG.integers(0, 256, (ROWS, 3))
    rows[:, 0] = 0
    path = written(tmp_path, frame=pd.DataFrame(rows, columns=list("abc")))
    columns = load_dataset(path, scale="bytes").columns
    assert [(each.kind, each.factor) for each in columns.columns] == [("whole", 255.0)] * 3
    assert columns.log_factor == pytest.approx(3 * np.log(255))


def test_numbers_with_some_codes_are_a_declared_category(tmp_path):
    """Diagnoses are mostly numbers, and some have a letter."""
    text = "x,code\n" + "".join(f"{n}.5,{['1.50', '2.00', 'A1'][n % 3]}\n" for n in range(30))
    with pytest.raises(DataError, match=r"in row 2 .* 'A1'; .* declare it categorical \(--kinds\)"):
        load(tmp_path, text)
    data = load(tmp_path, text, kinds={"code": "categorical"})
    assert data.columns.columns[1].levels == ("1.50", "2.00", "A1")


@pytest.mark.parametrize("gap", ["", "0.5,\n"])
@pytest.mark.parametrize("codes", [["01", "02"], ["TRUE", "FALSE"], ["1.50", "2.00"], ["1e3", "7"]])
def test_cells_of_a_category_stay_as_they_are_written(tmp_path, codes, gap):
    (tmp_path / "x.csv").write_text("x,code\n" + "".join(f"0.5,{code}\n" for code in codes) + gap)
    found = csv_content(tmp_path / "x.csv", Treatment(kinds={"code": "categorical"})).table["code"]
    assert found.tolist() == codes + [None] * bool(gap)


def test_labels_that_are_not_whole_numbers_are_refused_also_with_zeros_at_the_end(tmp_path):
    with pytest.raises(DataError, match="'y' holds numbers that are not whole"):
        load(tmp_path, "x,y\n0.5,1.50\n1.5,2.00\n2.5,1.50\n", label_column="y")


def test_a_long_column_has_one_type(tmp_path):
    """Without care, pandas reads each half million rows of a column by themselves: 7 beside 007."""
    path = tmp_path / "x.csv"
    path.write_text("x,code\n" + "0.5,007\n" * 540_000 + "1.5,A1\n" * 2)
    assert set(csv_content(path, Treatment()).table["code"]) == {"007", "A1"}


def test_dates_and_bools_of_a_parquet_file_are_the_cells_of_its_text_file(tmp_path):
    pytest.importorskip("pyarrow")
    days, ok = ["2026-02-01", "2026-02-02"] * 2, [True, None, False, True]
    times = pd.to_datetime([f"{day} 12:30:00" for day in days])
    frame = pd.DataFrame({"day": pd.to_datetime(days), "time": times, "ok": pd.array(ok, dtype="boolean")})
    found = [
        {name: [level_of(cell) for cell in cells] for name, cells in content.table.items()}
        for content in (
            csv_content(written(tmp_path, frame=frame), Treatment()),
            parquet_content(written(tmp_path, "parquet", frame), Treatment()),
        )
    ]
    assert found[0] == found[1]
    assert found[0]["day"] == days
    assert found[0]["ok"] == ["True", None, "False", "True"]
