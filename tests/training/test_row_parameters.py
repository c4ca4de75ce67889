"""Parameters of single rows, as in guides without an encoder: right with all rows at once, else refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, autoguide
from torch import nn

import pyro_dvae as dv

pytestmark = pytest.mark.usefixtures("interpreted")

N, BATCH = 24, 6
X = torch.linspace(-3, 3, N, dtype=torch.float64).reshape(N, 1)
QUIET = {"progress": False, "compile": False, "epochs": 1}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def own_guide(x):
    loc = pyro.param("loc", torch.zeros(len(x), 1, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def looped_model(x):
    for row in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{row}", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample(f"x_{row}", dist.Normal(z, 0.5).to_event(1), obs=x[row])


def looped_guide(x):
    loc = pyro.param("locs", torch.zeros(2 * len(x), 1, dtype=x.dtype))  # also of rows that are not there
    scale = pyro.param("scale", torch.ones(len(x), dtype=x.dtype), constraint=constraints.positive)
    for row in pyro.plate("data", len(x)):
        pyro.sample(f"z_{row}", dist.Normal(loc[row], scale[row]).to_event(1))


def positions(x):
    """A latent position of each row is a parameter of the model (GPLVM by maximum likelihood)."""
    loc = pyro.param("position", torch.zeros(len(x), 1, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def with_a_mean(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def nothing(x):
    pass


def by_pyro(kind, **options):
    return lambda: (model, kind(model, **options))


HELD = {
    "AutoDelta": by_pyro(autoguide.AutoDelta),
    "AutoNormal": by_pyro(autoguide.AutoNormal),
    "AutoDiagonalNormal": by_pyro(autoguide.AutoDiagonalNormal),
    "AutoMultivariateNormal": by_pyro(autoguide.AutoMultivariateNormal),
    "AutoLowRankMultivariateNormal": by_pyro(autoguide.AutoLowRankMultivariateNormal, rank=2),
    "AutoStructured": by_pyro(autoguide.AutoStructured, conditionals={"z": "normal"}, dependencies={}),
    "in a denoising guide": lambda: (
        model,
        dv.DenoisingGuide(autoguide.AutoNormal(model), dv.GaussianNoise(0.1)),
    ),
    "of a shared latent, too": lambda: (with_a_mean, autoguide.AutoLaplaceApproximation(with_a_mean)),
    "own": lambda: (model, own_guide),
    "looped": lambda: (looped_model, looped_guide),
    "model": lambda: (positions, nothing),
}


@pytest.fixture(autouse=True)
def _double():
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:model. latent 'mean' is shared")
@pytest.mark.parametrize("name", HELD)
def test_batches_of_some_rows_are_refused(name):
    pair = HELD[name]()
    with pytest.raises(
        dv.InputError, match=r"batch_size: parameter '.*' has a value for each row of a batch"
    ):
        dv.fit(*pair, X, loss=Trace_ELBO(), batch_size=BATCH, **QUIET)
    assert dv.fit(*pair, X[:BATCH], loss=Trace_ELBO(), batch_size=BATCH, **QUIET).trained.of_rows


@pytest.mark.parametrize("compiled", [False, True])
def test_all_rows_at_once_are_as_in_svi(compiled):
    """The mode of z is 0.8 x; with rows in another order at each step, it would be near 0."""
    fitted = dv.fit(
        *HELD["AutoDelta"](),
        X,
        loss=Trace_ELBO(),
        **QUIET | {"epochs": 400, "compile": compiled},
        learning_rate=0.03,
    )
    torch.testing.assert_close(fitted.guide.median(X)["z"], 0.8 * X, atol=1e-2, rtol=0)


def test_rows_that_depend_on_each_other_keep_their_order():
    def walk(x):
        value = torch.zeros(1)
        for time in range(len(x)):
            value = pyro.sample(f"z_{time}", dist.Normal(value, 0.5).to_event(1))
            pyro.sample(f"x_{time}", dist.Normal(value, 0.5).to_event(1), obs=x[time])

    fitted = dv.fit(
        walk,
        autoguide.AutoDelta(walk),
        X[:8],
        loss=Trace_ELBO(),
        **QUIET | {"epochs": 300},
        learning_rate=0.03,
    )
    steps = torch.tril(torch.ones(8, 8))
    exact = steps @ torch.linalg.solve(torch.eye(8) + steps.T @ steps, steps.T @ X[:8])
    mode = torch.stack([fitted.guide.median(X[:8])[f"z_{time}"] for time in range(8)])
    torch.testing.assert_close(mode, exact, atol=1e-2, rtol=0)
    with pytest.warns(UserWarning, match=r"no plate around observed sites has the 4 rows of a batch.*=8"):
        dv.fit(walk, nothing_of(walk), X[:8], loss=Trace_ELBO(), batch_size=4, **QUIET)


def nothing_of(program):
    """Return a guide without parameters of rows."""

    def guide(x):
        scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
        for time in range(len(x)):
            pyro.sample(f"z_{time}", dist.Normal(torch.zeros(1), scale).to_event(1))

    return guide


def test_other_rows_are_refused(tmp_path):
    with pytest.raises(dv.InputError, match="validation: parameter 'AutoNormal"):
        dv.fit(*HELD["AutoNormal"](), X, validation=X, loss=Trace_ELBO(), **QUIET)
    with pytest.raises(dv.InputError, match=r"batch_size: parameter 'AutoNormal.*batch_size=24"):
        dv.fit_many([HELD["AutoNormal"]()], X, loss=Trace_ELBO(), epochs=1, batch_size=BATCH, progress=False)
    with pytest.raises(dv.InputError, match="validation: parameter 'AutoNormal"):
        dv.fit_many([HELD["AutoNormal"]()], X, validation=X, loss=Trace_ELBO(), epochs=1, progress=False)
    pyro.clear_param_store()  # of the batches
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=BATCH)
    with pytest.raises(dv.InputError, match="batch_size: parameter 'AutoNormal"):
        dv.fit(*HELD["AutoNormal"](), loader, loss=Trace_ELBO(), **QUIET)
    pyro.clear_param_store()
    fitted = dv.fit(*HELD["AutoNormal"](), X, loss=Trace_ELBO(), **QUIET)
    assert "parameter 'AutoNormal.locs.z' has a value for each row" in str(
        dv.check(fitted.model, fitted.guide, X, num_data=2 * N, loss=Trace_ELBO())
    )
    for use in (fitted.encode, fitted.log_likelihood, fitted.condition):
        with pytest.raises(dv.InputError, match=r"guide: parameter 'AutoNormal.*Pyro's own functions"):
            use(X)
    with pytest.raises(dv.InputError, match=r"guide: parameter 'AutoNormal.*param_store"):
        fitted.save(tmp_path / "saved")


@pytest.mark.slow
def test_several_models_take_all_rows_in_order():
    pairs = [HELD["AutoDelta"]() for _ in range(2)]
    for fitted in dv.fit_many(pairs, X, loss=Trace_ELBO(), epochs=400, learning_rate=0.03, progress=False):
        with fitted.in_use():
            torch.testing.assert_close(fitted.guide.median(X)["z"], 0.8 * X, atol=1e-2, rtol=0)


class Networks(nn.Module):
    """An encoder and a decoder with as many units as a batch has rows; units of a ReLU often give 0."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(1, BATCH), nn.ReLU(), nn.Linear(BATCH, 1))
        self.decoder = nn.Sequential(nn.Linear(1, BATCH), nn.ReLU(), nn.Linear(BATCH, 1))

    def model(self, x):
        pyro.module("networks", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("networks", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def of_categories(x, category):
    effect = pyro.param("effect", torch.zeros(BATCH, 1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(effect[category], 0.5).to_event(1), obs=x)


def of_columns(x):
    """As many columns as a batch has rows, each with a parameter."""
    shift = pyro.param("shift", torch.zeros(BATCH))
    with pyro.plate("data", len(x), dim=-2), pyro.plate("columns", BATCH, dim=-1):
        pyro.sample("x", dist.Normal(shift, 0.5), obs=x)


def of_all_rows(x):
    shift = pyro.sample("shift", dist.Normal(torch.zeros(BATCH), 1.0).to_event(1))
    with pyro.plate("data", N, subsample=x):
        pyro.sample("x", dist.Normal(shift, 0.5).to_event(1), obs=x)


def indexed(x, row):
    with pyro.plate("data", N, subsample=row):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def two(x, *_):
    return None


NETWORKS = Networks().double()
WIDE = X.expand(N, BATCH).contiguous()
FREE = {
    "units": lambda: (NETWORKS.model, NETWORKS.guide, X),
    "categories": lambda: (of_categories, two, X, torch.arange(N) % BATCH),
    "columns": lambda: (of_columns, nothing, WIDE),
    "shared latents": lambda: (of_all_rows, autoguide.AutoNormal(of_all_rows), WIDE),
    "rows by their number": lambda: (
        indexed,
        autoguide.AutoDelta(indexed, create_plates=lambda x, row: pyro.plate("data", N, subsample=row)),
        X,
        torch.arange(N),
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_other_parameters_train_on_batches(name):
    for seed in range(3):
        torch.manual_seed(seed)
        pyro.clear_param_store()
        fitted = dv.fit(*FREE[name](), loss=Trace_ELBO(), batch_size=BATCH, **QUIET)
        assert not fitted.trained.of_rows


@pytest.mark.slow
def test_rows_by_their_number_have_their_own_values():
    fitted = dv.fit(
        *FREE["rows by their number"](),
        loss=Trace_ELBO(),
        batch_size=BATCH,
        learning_rate=0.03,
        **QUIET | {"epochs": 200},
    )
    leaf = next(iter(fitted.trained.parameters.values()))
    torch.testing.assert_close(leaf.detach(), 0.8 * X, atol=0.1, rtol=0)


def test_a_guide_that_is_set_up_in_training_has_each_parameter_once(tmp_path):
    guide = autoguide.AutoNormal(model)
    options = {"loss": Trace_ELBO(), "checkpoint": tmp_path / "run"} | QUIET
    fitted = dv.fit(model, guide, X, **options)
    assert set(fitted.trained.parameters) == {"AutoNormal.locs.z", "AutoNormal.scales.z"}
    assert all(leaf is not None and leaf.grad is None for leaf in fitted.trained.parameters.values())
    longer = dv.fit(model, guide, X, resume=True, **options | {"epochs": 3})
    assert len(longer.history.epochs) == 3


def test_estimates_on_some_rows_say_what_they_need():
    pair = HELD["AutoNormal"]()
    pyro.infer.SVI(*pair, pyro.optim.Adam({}), loss=Trace_ELBO()).step(X)
    with pytest.raises(
        dv.InputError, match="must run on any number of rows; a guide with parameters for each"
    ):
        dv.log_likelihood(*pair, X, num_samples=10)
    with pytest.raises(
        dv.InputError, match="must run on any number of rows; a guide with parameters for each"
    ):
        dv.condition(*pair, X.where(X > 0, torch.nan), num_samples=100)
