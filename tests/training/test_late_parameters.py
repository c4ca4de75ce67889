"""Parameters that a later run makes, which SVI trains, are refused, never left at their first values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, TensorDataset

import pyro_dvae as dv

X = torch.linspace(-1.0, 2.0, 12)


def model(x):
    for row in pyro.plate("data", len(x), subsample_size=3):
        z = pyro.sample(f"z_{row}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{row}", dist.Normal(z, 1.0), obs=x[row])


def guide(x, table=False):
    """The guide of Pyro's tutorial on amortisation, with a parameter for each row, or with one for all."""
    for row in pyro.plate("data", len(x), subsample_size=3):
        if table:
            loc = pyro.param("loc", torch.zeros(len(x)))[row]
        else:
            loc = pyro.param(f"loc_{row}", torch.tensor(0.0))
        pyro.sample(f"z_{row}", dist.Delta(loc))


def test_a_parameter_of_a_later_run_is_refused():
    torch.manual_seed(0)
    with pytest.raises(
        dv.InputError, match=r"parameter 'loc_\d+' was not there in the first run.*CompiledSVI"
    ):
        dv.fit(model, guide, X, loss=Trace_ELBO(), epochs=20, compile=False, progress=False)


def test_one_parameter_for_all_rows_is_trained():
    """The mode of z is x / 2."""
    fitted = dv.fit(
        model,
        lambda x: guide(x, table=True),
        X,
        loss=Trace_ELBO(),
        epochs=400,
        learning_rate=0.05,
        compile=False,
        progress=False,
    )
    torch.testing.assert_close(fitted.trained.parameters["loc"].detach(), X / 2, atol=1e-2, rtol=0)


def test_each_set_of_parameters_of_the_first_batch_may_be_used_alone():
    def by_sign(x):
        for name, own in (("negative", x[:, 0] < 0), ("positive", x[:, 0] >= 0)):
            if own.any():
                mean = pyro.param(name, torch.tensor(0.0))
                with pyro.plate(f"rows_{name}", int(own.sum())):
                    pyro.sample(f"x_{name}", dist.Normal(mean, 1.0), obs=x[own, 0])

    rows = torch.tensor([[-1.0], [1.0], [-1.0], [-1.0], [1.0], [1.0]])
    batches = DataLoader(TensorDataset(rows), 2)
    with pytest.warns(UserWarning, match="no plate around observed sites"):
        fitted = dv.fit(
            by_sign,
            lambda x: None,
            batches,
            loss=Trace_ELBO(),
            epochs=100,
            learning_rate=0.05,
            compile=False,
            progress=False,
        )
    values = {name: float(leaf.detach()) for name, leaf in fitted.trained.parameters.items()}
    assert values == pytest.approx({"negative": -1.0, "positive": 1.0}, abs=0.05)
