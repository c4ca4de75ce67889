"""A warning shows the line of the user's code that led to it, however deep in the package it arises."""

import re
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_dvae as dv
from pyro_dvae.errors import warn

SOURCE = Path(dv.__file__).parent
WEIGHT = nn.Linear(3, 2)


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ z.new_ones(2, 3), 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    pyro.module("encoder", WEIGHT)
    with pyro.plate("data", len(x)):
        x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x)
        pyro.sample("z", dist.Normal(WEIGHT(x_tilde), 1.0).to_event(1))


def branching(x: Tensor) -> None:
    if x.mean() > 1e6:  # a value decides, so steps cannot be recorded
        raise AssertionError
    model(x)


def shared(x: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(shift, 1.0).expand([len(x), 3]).to_event(1), obs=x)


def shared_guide(x: Tensor) -> None:
    pyro.sample("shift", dist.Normal(pyro.param("at", torch.tensor(0.0)), 1.0))


def far_rows() -> dv.Fitted:
    """A trained pair that has never seen rows such as those below."""
    torch.manual_seed(0)
    return dv.fit(model, guide, torch.randn(20, 3), loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False)


def condition() -> object:
    gaps = torch.full((4, 3), 1e3)
    gaps[:, 0] = torch.nan
    return far_rows().impute(gaps)


def compiled_svi() -> object:
    adam = pyro.optim.Adam({"lr": 1e-3})
    svi = dv.CompiledSVI(branching, guide, adam, loss=dv.TraceDenoising_ELBO())
    return [svi.step(torch.randn(4, 3)) for _ in range(2)]


def trained() -> object:
    options = {"epochs": 2, "compile": True, "progress": False, "batch_size": 2}
    return dv.fit(branching, guide, torch.randn(4, 3), loss=dv.TraceDenoising_ELBO(), **options)


def trained_with_a_shared_latent() -> object:
    options = {"epochs": 1, "batch_size": 2, "progress": False}
    return dv.fit(shared, shared_guide, torch.randn(4, 3), loss=dv.TraceDenoising_ELBO(), **options)


@pytest.mark.parametrize("call", [condition, compiled_svi, trained, trained_with_a_shared_latent])
def test_a_warning_shows_the_users_line(call):
    pyro.clear_param_store()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert caught
    assert {each.filename for each in caught} == {__file__}


def test_a_warning_without_a_users_line_is_issued():
    def everywhere(message: str) -> None:
        exec("warn(message)", {"warn": warn, "message": message, "__name__": "pyro_dvae.anything"})

    with pytest.warns(UserWarning, match="seen"):
        everywhere("seen")


def test_every_warning_of_the_package_is_issued_this_way():
    issuing = re.compile(r"\bwarnings\.warn\(")
    places = {path for path in SOURCE.rglob("*.py") if issuing.search(path.read_text(encoding="utf-8"))}
    assert places == {SOURCE / "errors.py"}
