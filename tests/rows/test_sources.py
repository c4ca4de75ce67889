"""In every entry point, every source of rows gives bit for bit the result of the same tensor."""

import math
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_dvae as dv
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.rows import Data, InMemory, opened, source_of
from pyro_dvae.rows.source import require_finite

N, D = 23, 4


def table():
    """Small whole numbers, so that every type holds them exactly."""
    return torch.randint(0, 5, (N, D), generator=torch.Generator().manual_seed(1)).float()


class Squares(Dataset):
    """A map-style data set that computes its items."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row]


def on_disk(x, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, x.numpy().astype(np.float64))
    return np.load(path, mmap_mode="r")


SOURCES = {
    "tensor": lambda x, _: x,
    "array": lambda x, _: x.numpy(),
    "array of doubles": lambda x, _: x.double().numpy(),
    "array, columns first": lambda x, _: np.asfortranarray(x.numpy()),
    "array, other byte order": lambda x, _: x.numpy().astype(">f4"),
    "array on disk": on_disk,
    "sparse": lambda x, _: scipy.sparse.csr_matrix(x.numpy()),
    "sparse, columns, whole": lambda x, _: scipy.sparse.csc_array(x.numpy().astype(np.int16)),
    "frame": lambda x, _: pd.DataFrame(x.numpy().astype(int), columns=list("abcd")),
    "frame, mixed types": lambda x, _: pd.DataFrame(x.numpy()).astype({0: "int8", 1: "float64"}),
    "TensorDataset": lambda x, _: TensorDataset(x),
    "Dataset": lambda x, _: Squares(x),
    "Dataset of arrays": lambda x, _: Squares(x.double().numpy()),
    "loader of all": lambda x, _: DataLoader(Squares(x), batch_size=5, shuffle=True),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return SOURCES[request.param](table(), tmp_path)


class Pair(nn.Module):
    """A linear-Gaussian model of rows of D, and a guide on corrupted rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decode, self.encode = nn.Linear(2, D), nn.Linear(D, 2)
        self.corruption = dv.GaussianNoise(0.5)

    def model(self, x, shift=0.0):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z) + shift, 1).to_event(1), obs=x)

    def guide(self, x, shift=0.0):
        with pyro.plate("data", len(x)):
            noisy = dv.corrupt("noisy", self.corruption, x)
            pyro.sample("z", dist.Normal(self.encode(noisy), 0.5).to_event(1))


def fitted_weights(data, **options):
    pyro.clear_param_store()
    pair = Pair()
    pyro.set_rng_seed(2)
    options = {"epochs": 3, "batch_size": 5, "progress": False, "learning_rate": 0.01} | options
    dv.fit(pair.model, pair.guide, data, loss=dv.TraceDenoising_ELBO(), **options)
    return [each.detach().clone() for each in pair.parameters()]


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


OTHERS = {
    "h5py": lambda x, tmp_path: on_h5py(x, tmp_path),
    "pyarrow": lambda x, _: pytest.importorskip("pyarrow").table(dict(zip("abcd", x.T.numpy(), strict=True))),
    "xarray": lambda x, _: pytest.importorskip("xarray").DataArray(x.numpy(), dims=["row", "column"]),
    "xarray, by column": lambda x, _: pytest.importorskip("xarray").Dataset(
        {name: ("row", column) for name, column in zip("abcd", x.T.numpy(), strict=True)}
    ),
    "polars": lambda x, _: pytest.importorskip("polars").DataFrame(x.numpy(), schema=list("abcd")),
    "masked array without a mask": lambda x, _: np.ma.masked_array(x.numpy()),
    "frame of a class of one's own": lambda x, _: type("Mine", (pd.DataFrame,), {})(x.numpy()),
    "frame, two columns of one name": lambda x, _: pd.DataFrame(x.numpy(), columns=["a", 1, "1", "a"]),
}


def on_h5py(x, tmp_path):
    file = pytest.importorskip("h5py").File(tmp_path / "rows.h5", "w")
    return file.create_dataset("x", data=x.numpy())


@pytest.mark.parametrize("source", OTHERS)
def test_tables_and_arrays_of_other_packages_have_the_rows_of_the_tensor(source, tmp_path):
    found = source_of("data", OTHERS[source](table(), tmp_path), torch.float32)
    same(found.take(slice(None)), [table()])


IN_ORDER = [name for name in SOURCES if name != "loader of all"]  # which has an order of its own
QUICK = ("array on disk", "sparse", "Dataset of arrays")
FEW = [name if name == "array on disk" else pytest.param(name, marks=pytest.mark.slow) for name in IN_ORDER]
MEASURED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SOURCES]


@pytest.mark.parametrize("source", IN_ORDER, indirect=True)
def test_training_equals_that_of_the_tensor(source):
    same(fitted_weights(source), fitted_weights(table()))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("source", FEW, indirect=True)
def test_recorded_training_equals_that_of_the_tensor(source):
    options = {"compile": True, "validation": table()[:7], "epochs": 2}
    same(fitted_weights(source, **options), fitted_weights(table(), **options))


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("source", FEW, indirect=True)
def test_several_models_train_as_on_the_tensor(source):
    found = []
    for data in (source, table()):
        pyro.clear_param_store()
        pairs = [Pair(), Pair()]
        options = {"epochs": 2, "batch_size": N, "progress": False}  # one shape to record
        dv.fit_many([(p.model, p.guide) for p in pairs], data, loss=dv.TraceDenoising_ELBO(), **options)
        found.append([each.detach().clone() for pair in pairs for each in pair.parameters()])
    same(*found)


DOORS = {
    "evaluate_bound": lambda pair, x: (
        dv.evaluate_bound(
            pair.model, pair.guide, x, loss=dv.TraceDenoising_ELBO(), clean=False, seed=3, batch_size=6
        ).per_datum
    ),
    "bounds_report": lambda pair, x: (
        dv.bounds_report(
            pair.model,
            pair.guide,
            x,
            num_mixture=2,
            num_particles=2,
            num_corruptions=2,
            num_samples=20,
            seed=3,
        )
        .entries[0]
        .estimate.per_datum
    ),
    "log_likelihood": lambda pair, x: (
        dv.log_likelihood(pair.model, pair.guide, x, num_samples=30, seed=3, memory=20_000).log_likelihood
    ),
    "annealed_log_likelihood": lambda pair, x: (
        dv.annealed_log_likelihood(
            pair.model, pair.guide, x, num_steps=5, num_chains=2, leapfrog_steps=1, seed=3
        ).log_weight
    ),
    "bidirectional": lambda pair, x: (
        dv.bidirectional(
            pair.model, pair.guide, x, num_steps=5, num_chains=2, leapfrog_steps=1, seed=3
        ).reverse_log_weight
    ),
    "latent_means": lambda pair, x: dv.evaluation.measures.latent_means(
        pair.model, pair.guide, x, clean=False, num_samples=3, seed=3, batch_size=6
    )["z"],
    "active_units": lambda pair, x: dv.evaluation.measures.active_units(
        pair.model, pair.guide, x, seed=3, batch_size=6
    ).activity["z"],
    "bound_parts": lambda pair, x: (
        dv.evaluation.measures.bound_parts(
            pair.model, pair.guide, x, seed=3, batch_size=6
        ).reconstruction.per_datum
    ),
    "reconstruction_error": lambda pair, x: (
        dv.evaluation.measures.reconstruction_error(
            pair.model, pair.guide, x, seed=3, batch_size=6, num_samples=2
        ).from_samples.squared.per_datum
    ),
    "binary_code": lambda pair, x: (
        dv.evaluation.measures.binary_code(pair.model, pair.guide, x, batch_size=6).share
    ),
    "linear_probe": lambda pair, x: torch.tensor(
        dv.evaluation.measures.linear_probe(
            pair.model, pair.guide, x, torch.arange(N) % 2, x, torch.arange(N) % 2, seed=3
        ).test_accuracy
    ),
}


@cache
def of_the_tensor(door):
    return DOORS[door](Pair(), table())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("source", MEASURED, indirect=True)
def test_measures_equal_those_of_the_tensor(source, door):
    same([DOORS[door](Pair(), source)], [of_the_tensor(door)])


def test_what_tells_rows_from_others_does_not_depend_on_the_source(source):
    if isinstance(source, DataLoader):
        source = opened("data", source, torch.float32).gathered()
        data = Data((source,))
    else:
        data = Data.opened("data", (source,))
    same_data = Data.opened("data", (table(),))
    assert data.fingerprints() == same_data.fingerprints()
    assert data.digest() == same_data.digest()
    changed = table()
    changed[11, 2] += 1
    assert Data.opened("data", (changed,)).fingerprints() != same_data.fingerprints()
    assert Data.opened("data", (changed,)).digest() != same_data.digest()


def test_types():
    def type_of(value, floats=torch.float32):
        return source_of("data", value, floats).take(slice(0, 1))[0].dtype

    assert type_of(table().double()) == torch.float64  # the type of a tensor is kept
    assert type_of(table().double().numpy()) == torch.float32
    assert type_of(table().numpy(), torch.float64) == torch.float64
    assert type_of(np.zeros(3, np.uint16)) == torch.int32
    assert type_of(np.zeros(3, bool)) == torch.bool
    assert type_of(pd.Series([1, 2])) == torch.int64
    assert type_of(pd.DataFrame({"a": [1, 2]})) == torch.float32
    assert type_of(scipy.sparse.csr_matrix(np.eye(2, dtype=int)), torch.float64) == torch.float64


def test_modules_of_doubles_get_doubles():
    pair = Pair().double()
    found = dv.evaluate_bound(
        pair.model, pair.guide, table().numpy(), loss=dv.TraceDenoising_ELBO(), seed=1
    ).per_datum
    again = dv.evaluate_bound(
        pair.model, pair.guide, table().double(), loss=dv.TraceDenoising_ELBO(), seed=1
    ).per_datum
    assert torch.equal(found, again)


GAPS = pd.DataFrame({"a": [1.0, None], "b": [2.0, 3.0]})
WORDS = pd.DataFrame({"a": [1.0, 2.0], "kind": ["x", "y"]})
REFUSED = {
    "dict": ({"x": table(), "y": table()}, r"got a dict; give its parts one after the other: data\['x'\]"),
    "list of tensors": ([table(), table()], r"got list; give rows as one tensor"),
    "path": ("rows.npy", r"expected a tensor .*, got 'rows.npy'"),
    "iterator": (iter([table()]), "an iterator gives its rows only once"),
    "texts": (np.array(["a", "b"]), "expected numbers, got an array of <U1"),
    "objects": (np.array([{}, 1], dtype=object), "expected numbers, got an array of object"),
    "masked": (np.ma.masked_equal(np.arange(4.0), 2), "got a masked array; fill its gaps"),
    "gaps": (GAPS, r"1 cell is missing, 1 of them in 'a'; fill them or drop their rows"),
    "words": (WORDS, "expected numeric columns, got others: 'kind'; encode them"),
    "a column of texts beside one of its name": (
        pd.DataFrame({1: ["x"], "1": [1.0]}),
        "got others: '1'; encode",
    ),
    "whole numbers that torch cannot hold": (
        np.array([[2**63 + 5, 1]], dtype=np.uint64),
        r"expected whole numbers below 2\*\*63, got 9223372036854775813; use floats",
    ),
    "nested": (
        torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
        "got a nested one; call .to_d",
    ),
    "bytes of reals": (torch.ones(2, 2).to(torch.float8_e4m3fn), "expected numbers of 16 bits at least"),
    "a single row": (
        table()[0],
        r"takes shape \(4,\) for one observation, but plate 'data' has 4 elements; .*single row as x\[None\]",
    ),
    "no rows": (np.zeros((0, 3)), r"got shape \(0, 3\)"),
    "NaN": (np.array([1.0, np.nan]), "expected finite values, got 1 NaN"),
    "sparse NaN": (scipy.sparse.csr_matrix([[1.0, np.nan]]), "expected finite numbers in the sparse matrix"),
    "empty data set": (Squares(table()[:0]), "got an empty data set"),
    "dicts of a data set": (Squares([{"x": torch.ones(2)}]), "got a dict of 'x'; return them"),
    "other shapes": (Squares([torch.ones(2), torch.ones(3)]), "cannot be put into one tensor"),
    "texts of a data set": (Squares(["a", "b"]), "expected batches of tensors .* got a str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_rows_is_refused_with_a_remedy(case):
    value, words = REFUSED[case]
    pair = Pair()
    for call in (
        lambda: dv.fit(
            pair.model, pair.guide, value, loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False
        ),
        lambda: dv.evaluate_bound(pair.model, pair.guide, value, loss=dv.TraceDenoising_ELBO()),
    ):
        with pytest.raises(dv.InputError, match=f"^(data|x): (.*|){words}"):
            call()


class RowByRow(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(table())


def test_a_stream_of_rows_is_not_a_stream_of_batches():
    pair, options = (
        Pair(),
        {"loss": dv.TraceDenoising_ELBO(), "epochs": 1, "progress": False, "compile": False},
    )
    with pytest.raises(
        dv.InputError, match=r"^x: 'noisy' takes shape \(4,\) for one .*rows in batches \(torch"
    ):
        dv.fit(pair.model, pair.guide, RowByRow(), **options)
    dv.fit(pair.model, pair.guide, DataLoader(RowByRow(), batch_size=5), **options)


def test_a_single_row_is_refused_without_a_corruption_too():
    """A plate of four entries would repeat it."""
    pair = Pair()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    with pytest.raises(
        dv.InputError, match=r"^data: expected rows along the first .* single row as x\[None\]"
    ):
        dv.fit(pair.model, guide, table()[0], loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False)


def test_columns_of_validation_must_equal_those_of_training():
    pair, frame = Pair(), pd.DataFrame(table().numpy(), columns=list("abcd"))
    with pytest.raises(dv.InputError, match=r"^validation: .* got 'd' in place of 'a' at position 0; choose"):
        dv.fit(pair.model, pair.guide, frame, validation=frame[list("dbca")], loss=dv.TraceDenoising_ELBO())


def test_gaps_of_an_array_on_disk_are_seen_when_their_rows_are_read(tmp_path):
    array = table().numpy().copy()
    array[20, 1] = np.inf
    source = source_of("data", on_disk(torch.from_numpy(array), tmp_path), torch.float32)
    source.take(slice(0, 20))
    with pytest.raises(
        dv.InputError, match=r"^data: expected finite values, got 1 NaN or infinite in 2 rows"
    ):
        source.take(torch.tensor([3, 20]))


def test_an_array_on_disk_is_not_read_at_once(tmp_path):
    mapped = on_disk(table(), tmp_path)
    source = source_of("data", mapped, torch.float32)
    assert not isinstance(source, InMemory)
    rows = torch.tensor([5, 2, 5])
    assert torch.equal(source.take(rows)[0], table()[rows])
    assert torch.equal(source.take(slice(20, 99))[0], table()[20:])


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize(
    "part", [slice(None), slice(1, None), slice(None, None, -2), (slice(2, None), slice(1, None)), None]
)
def test_an_array_on_disk_gives_the_values_of_its_map(mode, part, tmp_path):
    on_disk(table(), tmp_path)
    path = tmp_path / "rows.npy"
    mapped, expected = np.load(path, mmap_mode=mode), table().clone().numpy()
    if mode != "r":
        mapped[3], expected[3] = 7.0, 7.0
    if part is None:  # another file takes its name
        path.unlink()
        np.save(path, np.zeros_like(mapped))
        part = slice(None)
    expected = torch.from_numpy(expected[part].copy())
    source = source_of("data", mapped[part], torch.float32)
    rows = torch.tensor([2, 0, len(expected) - 1])
    for _ in range(2):
        assert torch.equal(source.take(rows)[0], expected[rows])
        found = source.take(slice(0, 5))[0]
        assert torch.equal(found, expected[:5])
        found += 1  # a batch is a copy
    assert torch.equal(source.take(slice(0, 99))[0], expected)


def test_a_file_that_was_cut_short_is_noticed(tmp_path):
    source = source_of("data", on_disk(table(), tmp_path), torch.float32)
    (tmp_path / "rows.npy").write_bytes((tmp_path / "rows.npy").read_bytes()[:200])
    with pytest.raises(dv.DataError, match="ends before its row 20"):
        source.take(torch.tensor([0, 20]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is mapped")
def test_an_array_on_disk_needs_memory_for_a_few_batches(tmp_path):
    size = 1 << 28
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (size >> 12, 1 << 12)).flush()
    source = source_of("data", np.load(tmp_path / "large.npy", mmap_mode="r"), torch.float32)

    def of_files():
        (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if "RssFile" in each]
        return 1024 * int(line.split()[1])

    before = of_files()
    for rows in torch.randperm(len(source)).split(100):
        source.take(rows)
    assert of_files() - before < size / 16


def test_sums_that_are_too_large_are_of_finite_values():
    large = torch.full((2, 3), 3e38)
    assert require_finite("data", (large,))[0] is large
    with pytest.raises(dv.InputError, match=r"got 1 NaN or infinite in 2 rows"):
        require_finite("data", (torch.tensor([[math.inf, -3e38], [0.0, 1.0]]),))
    with pytest.raises(dv.InputError, match=r"got 2 NaN or infinite in 2 rows"):
        require_finite("data", (torch.tensor([[math.inf, -math.inf], [0.0, 1.0]]),))


def test_sources_pickle(tmp_path):
    values = (table(), scipy.sparse.csr_matrix(table().numpy()), Squares(table()), on_disk(table(), tmp_path))
    for value in values:
        source = pickle.loads(pickle.dumps(source_of("data", value, torch.float32)))
        assert torch.equal(source.take(slice(0, N))[0], table())


def test_rows_from_inference_mode_are_copied():
    with torch.inference_mode():
        x = torch.ones(3, 2)
    for value in (x, [x]):
        found = opened("data", value if value is x else Again(value), torch.float32)
        part = found.take(slice(None))[0] if value is x else found.first()[0]
        assert not part.is_inference()
        assert torch.equal(part, x)


class Again:
    """An iterable of batches."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_data_of_another_type_than_the_modules_are_told_the_remedy():
    network = torch.nn.Linear(2, 2)
    told = r"give data and modules one type \(\.float\(\) or \.double\(\)\)"
    with pytest.raises(InputError, match=told), calling("data"):
        network(torch.ones(1, 2, dtype=torch.int64))
