import sys
import types
import warnings

import numpy as np
import pytest

from pyro_dvae.errors import DataError, InputError
from pyro_dvae.evaluation.importance import arviz_export
from pyro_dvae.evaluation.importance.arviz_export import import_arviz, labelled, read_netcdf, write_netcdf

GROUP = "importance_sampling"
RANDOM = np.random.default_rng(0)
PER_DATUM = {
    "log_likelihood": np.array([-90.5, -88.0, -np.inf]),
    "pareto_k": np.array([0.4, -np.inf, np.inf]),
    "own": np.array([1, 2, 3]),
}
LOG_WEIGHT = RANDOM.normal(size=(3, 5)).astype(np.float32)
ATTRIBUTES = {"num_samples": 5, "proposal": "guide", "seed": 3, "seconds": 1.5, "clean": True}
SIZES = np.array([1, 2, 5])
CURVE = {"convergence": {"size": (("size",), SIZES), "mean": (("datum", "size"), RANDOM.normal(size=(3, 3)))}}


@pytest.fixture(params=["own", "InferenceData", "DataTree"])
def container(request, monkeypatch):
    """Run with the installed ArviZ's container, and with each of the two if it is available."""
    arviz = import_arviz()
    if request.param != "own":
        if request.param == "InferenceData" and not arviz.__version__.startswith("0."):
            pytest.skip("ArviZ 1.x has no InferenceData")
        if request.param == "DataTree" and not hasattr(pytest.importorskip("xarray"), "DataTree"):
            pytest.skip("this xarray has no DataTree")
        monkeypatch.setattr(arviz_export, "_has_datatree", lambda arviz: request.param == "DataTree")
        return request.param
    return "InferenceData" if arviz.__version__.startswith("0.") else "DataTree"


def make(**options):
    return labelled(PER_DATUM, LOG_WEIGHT, ATTRIBUTES, groups=CURVE, **options)


def check(data):
    """Whether ``data`` is what ``make`` makes."""
    group = data[GROUP]
    for name, values in PER_DATUM.items():
        assert group[name].dims == ("datum",)
        np.testing.assert_array_equal(group[name].values, values)
    assert group["log_weight"].dims == ("datum", "importance_sample")
    assert group["log_weight"].dtype == np.float32
    np.testing.assert_array_equal(group["log_weight"].values, LOG_WEIGHT)
    np.testing.assert_array_equal(group["datum"].values, [0, 1, 2])
    np.testing.assert_array_equal(group["importance_sample"].values, np.arange(5))
    assert group["log_likelihood"].attrs["units"] == group["log_weight"].attrs["units"] == "nats"
    assert "log p(x)" in group["log_likelihood"].attrs["long_name"]
    assert "units" not in group["own"].attrs
    attributes = dict(group.attrs)
    assert attributes.pop("inference_library") == "pyro_dvae"
    assert attributes.pop("inference_library_version")
    assert attributes.pop("units") == "nats"
    assert {name: attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert set(attributes) == set(ATTRIBUTES)
    curve = data["convergence"]
    assert set(curve["mean"].coords) == {"datum", "size"}
    assert float(curve["mean"].sel(datum=1, size=5)) == CURVE["convergence"]["mean"][1][1, 2]


def test_labels(container):
    data = make()
    assert type(data).__name__ == container
    check(data)


def test_the_container_is_that_of_the_installed_arviz():
    for version, datatree in [("0.18.0", False), ("0.23.4", False), ("1.0.0", True), ("1.3.0rc1", True)]:
        assert arviz_export._has_datatree(types.SimpleNamespace(__version__=version)) is datatree


def test_labels_of_the_data(container):
    data = make(data_labels=np.array(["a", "b", "c"]), group="mine")
    assert float(data["mine"]["log_likelihood"].sel(datum="b")) == -88.0
    assert float(data["convergence"]["mean"].sel(datum="c", size=1)) == CURVE["convergence"]["mean"][1][2, 0]


def test_without_log_weights(container):
    group = labelled(PER_DATUM)[GROUP]
    assert "log_weight" not in group.data_vars
    assert "importance_sample" not in group.coords
    assert "datum" in labelled({}, LOG_WEIGHT)[GROUP].coords


def test_a_file_and_back(container, tmp_path):
    path = tmp_path / "new" / "results.nc"
    assert write_netcdf(make(), str(path)) == path
    assert [each.name for each in path.parent.iterdir()] == ["results.nc"]
    data = read_netcdf(path)
    assert type(data).__name__ == container
    check(data)
    write_netcdf(data, path)  # the file was closed
    check(read_netcdf(path))


def test_text_labels_in_a_file(container, tmp_path):
    path = write_netcdf(make(data_labels=np.array(["a", "b", "c"])), tmp_path / "results.nc")
    assert read_netcdf(path)[GROUP]["datum"].values.tolist() == ["a", "b", "c"]


def test_arviz_reads_the_file(tmp_path):
    path = write_netcdf(make(), tmp_path / "results.nc")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* group is not defined")  # ArviZ 0.18 to 0.20
        data = import_arviz().from_netcdf(str(path))
    check(data)
    data.close()


def test_both_containers_write_the_same_file(monkeypatch, tmp_path):
    if not hasattr(pytest.importorskip("xarray"), "DataTree"):
        pytest.skip("this xarray has no DataTree")
    monkeypatch.setattr(arviz_export, "_has_datatree", lambda arviz: True)
    path = write_netcdf(make(), tmp_path / "results.nc")
    monkeypatch.undo()
    check(read_netcdf(path))


def test_the_file_is_compressed(container, tmp_path):
    plain = labelled({}, np.zeros((100, 1000)))
    assert write_netcdf(plain, tmp_path / "results.nc").stat().st_size < 100_000


def test_an_unwritable_path_leaves_what_is_there(container, tmp_path):
    (tmp_path / "file").write_text("here")
    for path in (tmp_path, tmp_path / "file" / "results.nc"):
        with pytest.raises(InputError, match=r"^output: cannot write [^\n]*$"):
            write_netcdf(make(), path)
    assert (tmp_path / "file").read_text() == "here"


def test_a_full_disk_leaves_what_is_there(container, tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    data, path = make(), tmp_path / "results.nc"
    path.write_text("before")
    monkeypatch.setattr(type(data), "to_netcdf", full)
    with pytest.raises(InputError, match=r"^output: cannot write .*No space left"):
        write_netcdf(data, path)
    assert [each.name for each in tmp_path.iterdir()] == ["results.nc"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("content", [None, b"", b"not a netCDF file", b"\x89HDF\r\n\x1a\n" + 99 * b"\0"])
def test_a_file_that_cannot_be_read(container, tmp_path, content):
    path = tmp_path / "results.nc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^path: cannot read [^\n]*{path.name}: [^\n]+$"):
        read_netcdf(path)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (({},), {}, "^per_datum: expected at least one variable"),
        (({"a": np.array(1.0)},), {}, "^a: expected one value per observation"),
        (({"a": np.ones(3), "b": np.ones(4)},), {}, r"^b: expected shape \[3\], got \[4\]"),
        (({"a": np.ones((3, 2))},), {}, r"^a: expected shape \[3\], got \[3, 2\]"),
        (
            (PER_DATUM, np.ones((4, 5))),
            {},
            r"^log_weight: expected shape \[3, importance_sample\], got \[4, 5\]",
        ),
        ((PER_DATUM, np.ones(3)), {}, "^log_weight: expected shape"),
        ((PER_DATUM,), {"data_labels": np.arange(2)}, r"^data_labels: expected shape \[3\], got \[2\]"),
        (
            (PER_DATUM, None, {"guide": None}),
            {},
            "^attributes: expected text or a number for 'guide', got None",
        ),
        ((PER_DATUM,), {"groups": {GROUP: {}}}, "^groups: "),
        (({"datum": np.ones(3)},), {}, "^datum: .*name of a dimension"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(InputError, match=message):
        labelled(*arguments, **options)


@pytest.mark.parametrize("missing", ["arviz", "h5netcdf", "h5py"])
def test_what_is_missing_is_named(missing, monkeypatch, tmp_path):
    data = make()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"^labelled results need {missing} .*pip install {missing}$"):
        make() if missing == "arviz" else write_netcdf(data, tmp_path / "results.nc")
