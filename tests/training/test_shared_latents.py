"""A latent that all rows share: its prior counts once, not once per batch."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch.utils.data import DataLoader, TensorDataset

import pyro_dvae as dv

X = torch.randn(40, 1)


def pair(size=None, local=False):
    def rows(x):
        return pyro.plate("data", len(x) if size is None else size, subsample_size=len(x))

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0)) if local else 0.0
            pyro.sample("x", dist.Normal(mean + z, 1.0), obs=x[:, 0])

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("mean", dist.Normal(loc, 0.3))
        if local:
            with rows(x):
                pyro.sample("z", dist.Normal(loc * x[:, 0], 1.0))

    return model, guide


def train(pairs, **options):
    loss = dv.TraceDenoising_ELBO()
    if len(pairs) > 1:
        return dv.fit_many(pairs, X, loss=loss, epochs=1, progress=False, **options)
    return dv.fit(*pairs[0], X, loss=loss, epochs=1, progress=False, **options)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.usefixtures("interpreted")
def test_a_batch_that_counts_a_shared_prior_in_full_is_warned_of(local, count):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train([pair(local=local) for _ in range(count)], batch_size=10)
    said = [str(each.message) for each in caught if "shared" in str(each.message)]
    assert len(said) == count
    assert all("'mean' is shared by all rows" in text and "counts 4 times" in text for text in said)
    assert all("pyro.plate('data', 40, subsample_size=len(x))" in text for text in said)


@pytest.mark.parametrize(("size", "batch"), [(40, 10), (None, 40), (40, 40)])
def test_a_plate_of_all_rows_is_right(size, batch):
    train([pair(size)], batch_size=batch)  # warnings are errors


def test_a_loader_is_warned_of_a_shared_prior_too():
    loader = DataLoader(TensorDataset(X), 10)
    with pytest.warns(UserWarning, match=r"'mean' is shared by all rows.* counts 4 times"):
        dv.fit(*pair(), loader, loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False)


@pytest.mark.parametrize("size", [None, 40])
def test_the_last_batch_of_a_loader_counts_by_its_rows(size):
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x) if size is None else size, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])

    loader, options = DataLoader(TensorDataset(X), 16), {"learning_rate": 1e-12, "progress": False}
    fitted = dv.fit(model, lambda x: None, loader, loss=dv.TraceDenoising_ELBO(), epochs=1, **options)
    expected = float(dist.Normal(0.5, 1.0).log_prob(X).mean())
    assert fitted.history.train_bound[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_plate_that_draws_some_of_the_rows_stands_for_all(size, compiled, interpreted):
    """The bound of training and of validation is that of all rows, in expectation, whichever are drawn."""
    x = torch.full((40, 1), 3.0)  # all alike, so that the bound does not depend on the draw

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            pyro.sample("x", dist.Normal(loc + mean, 1.0), obs=x[rows, 0])

    def guide(x):
        pyro.sample("mean", dist.Delta(torch.tensor(1.0)))

    fitted = dv.fit(
        model,
        guide,
        x,
        loss=dv.TraceDenoising_ELBO(),
        validation=x,
        epochs=1,
        learning_rate=1e-9,
        compile=compiled,
        progress=False,
    )
    normal = dist.Normal(torch.tensor(1.0), 1.0)
    expected = float(normal.log_prob(torch.tensor(3.0)) + normal.log_prob(torch.tensor(0.0)) / 40)
    assert fitted.history.train_bound[0] == pytest.approx(expected, rel=1e-5)
    assert fitted.history.validation_bound[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceEnum_ELBO, dv.TraceDenoising_ELBO])
def test_as_many_particles_as_rows_are_no_rows(loss):
    """Pyro's plate of particles has the size of the data then."""
    x = torch.linspace(-1.0, 1.0, 8)

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    options = {"learning_rate": 1e-9, "epochs": 1, "compile": False, "progress": False}
    particles = {"num_particles": 8, "vectorize_particles": True, "max_plate_nesting": 1}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TraceEnum_ELBO found no sample sites")
        fitted = dv.fit(model, guide, x, loss=loss(**particles), **options)
    expected = float(dist.Normal(0.5, 1.0).log_prob(x).mean())
    assert fitted.history.train_bound[0] == pytest.approx(expected, rel=1e-5)


def test_a_plate_without_a_size_has_the_rows_of_its_sites():
    """``pyro.plate("data")`` of Pyro's semi-supervised VAE declares its rows independent."""

    def pair(*size):
        def model(x):
            with pyro.plate("data", *size), pyro.poutine.scale(scale=0.01):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            loc = pyro.param("loc", x.new_zeros(()))
            with pyro.plate("data", *size), pyro.poutine.scale(scale=0.01):
                pyro.sample("z", dist.Normal(loc.expand(len(x)), 0.5))

        return model, guide

    x, found = torch.randn(8, generator=torch.Generator().manual_seed(0)), []
    for size in ((), (4,)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        fitted = dv.fit(
            *pair(*size),
            x,
            loss=dv.TraceDenoising_ELBO(),
            batch_size=4,
            epochs=2,
            validation=x[:4],
            progress=False,
        )
        found.append((fitted.history.train_bound, fitted.history.validation_bound))
    assert found[0] == found[1]
    assert -5 < found[0][0][-1] < -1  # nats per row, without the scale
