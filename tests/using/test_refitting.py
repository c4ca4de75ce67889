"""Refitting the guide on draws of its model finds the model's best guide and does not change the model."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from torch import nn

import pyro_dvae as dv
from pyro_dvae.using.refitting import HalfAsleep

OPTIONS = {"progress": False, "learning_rate": 0.02, "batch_size": 100, "compile": False}


class OneLatent(nn.Module):
    """z ~ N(0, 1), x|z ~ N(wz, s²I), q(z|x) = N(a·x + c, v), of which the best is known."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -0.5, 0.8]).double())
        self.a = nn.Parameter(torch.zeros(3).double())
        self.c, self.log_v = (nn.Parameter(torch.zeros(()).double()) for _ in range(2))

    def model(self, x):
        w = pyro.param("w", lambda: self.w)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * w, 0.6).to_event(1), obs=x)

    def guide(self, x):
        a, c, log_v = (
            pyro.param(name, lambda name=name: getattr(self, name)) for name in ("a", "c", "log_v")
        )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ a + c, (log_v / 2).exp()))

    def best(self):
        """Return a and v of the exact posterior: v = 1 / (1 + w·w/s²), a = v w / s²."""
        w = self.w.detach()
        v = 1 / (1 + w @ w / 0.36)
        return v * w / 0.36, v


@pytest.fixture
def pair():
    pyro.clear_param_store()
    torch.manual_seed(0)
    return OneLatent()


def test_the_guide_becomes_the_posterior_of_the_model(pair):
    """On two training rows, which by themselves leave a undetermined."""
    x, before = torch.randn(2, 3).double().repeat(500, 1), pair.w.detach().clone()
    loss = dv.TraceDenoising_ELBO(gradient="stl")
    dv.refit_guide(pair.model, pair.guide, x, loss=loss, share=1.0, epochs=60, **OPTIONS)
    a, v = pair.best()
    torch.testing.assert_close(pair.a.detach(), a, atol=0.02, rtol=0)
    torch.testing.assert_close(pair.log_v.exp().detach(), v, atol=0.02, rtol=0)
    assert torch.equal(pair.w.detach(), before)
    assert pair.w.requires_grad


def test_a_share_of_the_rows_is_drawn_and_validation_is_of_rows_as_they_are(pair):
    x = torch.zeros(4000, 3).double()
    asleep = HalfAsleep(dv.TraceDenoising_ELBO(), share=0.3)
    mixed = asleep.mixed(pair.model, x)
    drawn = (mixed != 0).all(1)
    assert bool(((mixed == 0).all(1) | drawn).all())
    assert float(drawn.double().mean()) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)
    covariance = torch.outer(pair.w, pair.w).detach() + 0.36 * torch.eye(3).double()
    torch.testing.assert_close(mixed[drawn].T.cov(), covariance, atol=0.2, rtol=0)
    torch.manual_seed(1)
    plain = asleep.of_rows.loss(pair.model, pair.guide, x)
    torch.manual_seed(1)
    assert asleep.loss(pair.model, pair.guide, x) == plain


@pytest.mark.slow
def test_compiled_steps_train_the_same_guide():
    problem = LinearGaussian()
    before = problem.W.detach().clone()
    x = torch.randn(200, 3).double()
    loss = dv.TraceDenoising_ELBO()
    fitted = dv.refit_guide(
        problem.model, problem.guide, x, loss=loss, epochs=2, progress=False, compile=True, learning_rate=0.01
    )
    assert len(fitted.history.epochs) == 2
    assert torch.equal(problem.W.detach(), before)
    assert bool((problem.A.grad is None) or problem.A.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "w"}, "freeze: refitting keeps the model fixed"),
        ({"share": 1.5}, "share: expected"),
        ({"data_site": "y"}, "data_site: unknown name 'y'"),
        ({"data_site": "z"}, "data_site: unknown name 'z'"),
    ],
)
def test_odd_arguments_are_refused(pair, options, message):
    with pytest.raises(dv.InputError, match=message):
        dv.refit_guide(
            pair.model, pair.guide, torch.zeros(4, 3).double(), loss=dv.TraceDenoising_ELBO(), **options
        )
