import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from scipy import stats
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import read_netcdf, write_netcdf
from pyro_dvae.evaluation.importance.arviz_export import import_arviz
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

SCALE = 0.5
X = torch.tensor([[0.3], [-1.0], [2.0], [0.1]], dtype=torch.float64)
GROUPS = ("posterior", "posterior_predictive", "observed_data", "log_likelihood")


def shared_model(x):
    """w is one for all rows: log p(x | w) is that of N(w, 1 + SCALE²)."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w + z, SCALE).to_event(1), obs=x)


def shared_guide(x):
    """The exact posterior of z at each w, so that every importance weight is p(x | w)."""
    w = pyro.sample("w", dist.Normal(x.new_full((), 0.2), 0.3))
    with pyro.plate("data", len(x)):
        noisy = dv.corrupt("noisy", dv.GaussianNoise(0.1), x)
        precision = 1 + SCALE**-2
        loc = (noisy - w) * SCALE**-2 / precision
        pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, SCALE).to_event(1), obs=x)


def local_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 0.4).to_event(1))


def censored_model(x):
    """Values above 1 are known to be above 1 only."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        likelihood, above = dist.Normal(z, SCALE), x > 1
        with pyro.poutine.mask(mask=~above[:, 0]):
            pyro.sample("x", likelihood.to_event(1), obs=x.clamp(max=1))
        beyond = torch.special.log_ndtr((z - 1) / SCALE)
        pyro.factor("beyond", torch.where(above, beyond, 0.0).sum(-1))


def normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def test_factors_of_rows_are_part_of_their_likelihood():
    found = dv.to_arviz(censored_model, local_guide, X, num_draws=20, seed=0)
    z, parts = found["posterior"]["z"].values[..., 0], found["log_likelihood"]
    assert set(parts.data_vars) == {"x", "beyond"}
    x = X.numpy()[:, 0]
    expected = np.where(x > 1, stats.norm.logcdf((z - 1) / SCALE), normal(x, z, SCALE))
    np.testing.assert_allclose(parts["x"].values + parts["beyond"].values, expected, rtol=1e-9)


def test_latents_of_rows():
    found = dv.to_arviz(local_model, local_guide, X, num_draws=800, seed=0)
    z = found["posterior"]["z"]
    assert z.dims == ("chain", "draw", "datum", "z_dim_0")
    assert z.shape == (1, 800, 4, 1)
    error = 0.4 / math.sqrt(800)
    assert (np.abs(z.values.mean((0, 1)) - X.numpy()) < 4.5 * error).all()
    density = found["log_likelihood"]["x"]
    assert density.dims == ("chain", "draw", "datum")
    expected = normal(X.numpy(), z.values, SCALE)[..., 0]
    np.testing.assert_allclose(density.values, expected, rtol=1e-12)
    predicted = found["posterior_predictive"]["x"].values
    assert predicted.shape == z.shape
    residual = (predicted - z.values) / SCALE
    assert abs(residual.mean()) < 4.5 / math.sqrt(residual.size)
    assert abs(residual.std() - 1) < 4.5 / math.sqrt(2 * residual.size)
    np.testing.assert_array_equal(found["observed_data"]["x"].values, X.numpy())


def test_latents_that_all_rows_share():
    found = dv.to_arviz(shared_model, shared_guide, X, num_draws=5, num_samples=2, batch_size=3, seed=0)
    w, z = found["posterior"]["w"], found["posterior"]["z"]
    assert w.dims == ("chain", "draw")
    assert z.dims == ("chain", "draw", "datum", "z_dim_0")
    expected = normal(X[:, 0].numpy(), w.values[..., None], math.sqrt(1 + SCALE**2))
    np.testing.assert_allclose(found["log_likelihood"]["x"].values, expected, rtol=1e-10)


def test_every_group_says_what_made_it():
    found = dv.to_arviz(local_model, local_guide, X, num_draws=2, seed=0)
    for group in GROUPS:
        attributes = found[group].attrs
        assert attributes["inference_library"] == "pyro_dvae"
        assert attributes["inference_library_version"] == dv.__version__
        assert attributes["torch_version"] == torch.__version__
        assert attributes["num_draws"] == 2


def test_a_seed_repeats_the_draws_and_leaves_the_stream_alone():
    before = torch.get_rng_state()
    first, second = (
        dv.to_arviz(shared_model, shared_guide, X, num_draws=3, seed=4)["posterior"]["z"].values
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == first.size


def test_rows_with_gaps():
    rows = torch.where(torch.tensor([[False], [True], [False], [False]]), math.nan, X)
    model, guide = dv.with_gaps(local_model, local_guide)
    found = dv.to_arviz(model, guide, *dv.fill_gaps(rows), num_draws=3, seed=0)
    np.testing.assert_array_equal(found["observed_data"]["x"].values, rows.numpy())
    assert (found["log_likelihood"]["x"].values[..., 1] == 0).all()
    assert np.isfinite(found["posterior_predictive"]["x"].values).all()


def test_a_bayesian_decoder_in_a_file_and_in_loo(tmp_path):
    torch.manual_seed(0)
    rows = (torch.rand(30, 6) < 0.4).float()
    guide = dv.DVAE(GaussianEncoder(6, 2, (4,)), BernoulliDecoder(6, 2, (4,))).guide
    pair = dv.FullBayes(BernoulliDecoder(6, 2, (4,)), guide, len(rows), bound_of="batch")
    loss = dv.TraceDenoising_ELBO()
    fitted = dv.fit(pair.model, pair.guide, rows, loss=loss, epochs=5, batch_size=10, progress=False)
    found = fitted.to_arviz(rows, num_draws=150, num_samples=20, batch_size=20, seed=0, progress=False)
    assert found["posterior"]["decoder.head.weight"].shape == (1, 150, 6, 4)
    read = read_netcdf(write_netcdf(found, tmp_path / "draws.nc"))
    for group in GROUPS:
        for name, values in found[group].data_vars.items():
            np.testing.assert_array_equal(read[group][name].values, values.values)
    result = import_arviz().loo(found, pointwise=True)
    density = found["log_likelihood"]["x"].values[0]
    whole = np.log(np.exp(density).mean(0)).sum()  # log p of each row given all rows
    elpd = getattr(result, "elpd_loo", None)
    assert float(result.elpd if elpd is None else elpd) == pytest.approx(whole, rel=0.02)


def test_the_pair_is_refused_without_a_plate_of_the_rows():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.expand(x.shape), 1.0).to_event(2), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    with pytest.raises(
        InputError, match=r"^model: expected one plate with the 4 rows of a batch .* got none"
    ):
        dv.to_arviz(model, guide, X.float())


@pytest.mark.parametrize("options", [{"num_draws": 0}, {"num_samples": 0}, {"clean": 1}, {"seed": -1}])
def test_bad_options(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}: "):
        dv.to_arviz(local_model, local_guide, X, **options)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")  # of Pyro
def test_a_latent_that_the_guide_lacks_is_refused():
    """A draw from its prior is none of the posterior."""

    def model(x):
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(kind[..., None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"^guide: the model's latent 'kind' is not sampled in the guide"):
        dv.to_arviz(model, lambda x: None, X.float())


def test_networks_are_in_evaluation_mode():
    dropout = nn.Dropout(0.5)

    def guide(x):
        pyro.module("dropout", dropout)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(dropout(x), event_dim=1))

    found = dv.to_arviz(local_model, guide, X, num_draws=3)
    np.testing.assert_array_equal(found["posterior"]["z"].values[0], np.stack([X.numpy()] * 3))
    assert dropout.training


def test_latents_in_a_plate_within_a_row():
    """The subsampling site of the inner plate is no draw."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("repeats", 3, dim=-1):
                pyro.sample("x", dist.Normal(pyro.sample("v", dist.Normal(u, 0.5)), SCALE), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("u", dist.Normal(x.mean(-1, keepdim=True), 0.5))
            with pyro.plate("repeats", 3, dim=-1):
                pyro.sample("v", dist.Normal(x, 0.1))

    x = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    found = dv.to_arviz(model, guide, x, num_draws=200, seed=0)
    assert sorted(found["posterior"].data_vars) == ["u", "v"]
    v = torch.as_tensor(found["posterior"]["v"].values)
    assert v.shape == (1, 200, 4, 3)
    assert bool(((v.mean(1)[0] - x).abs() < 5 * 0.1 / 200**0.5).all())
    values = torch.as_tensor(found["log_likelihood"]["x"].values)
    expected = dist.Normal(v, SCALE).log_prob(x).sum(-1)
    torch.testing.assert_close(values, expected)


SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0])


def schools(y, sigma):
    """The eight schools of Rubin (1981), as Pyro's example writes them."""
    mu = pyro.sample("mu", dist.Normal(0, 5))
    tau = pyro.sample("tau", dist.HalfCauchy(5))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("obs", dist.Normal(theta, sigma), obs=y)


def regression(y, x):
    weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal((x * weights).sum(-1), scale), obs=y)


@pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal, AutoDelta])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_guides_that_pyro_makes_of_latents_that_all_rows_share(guide, batch_size):
    y, x = torch.tensor([0.3, -1.0, 2.0, 0.1]), torch.randn(4, 2)
    options = {"num_draws": 4, "num_samples": 3, "seed": 0, "batch_size": batch_size}
    found = dv.to_arviz(regression, guide(regression), y, x, **options)
    draws = {name: torch.from_numpy(found["posterior"][name].values[0]) for name in ("weights", "scale")}
    assert set(found["posterior"].data_vars) == set(draws)
    assert (guide is AutoDelta) == bool((draws["scale"] == draws["scale"][0]).all())
    expected = dist.Normal(draws["weights"] @ x.T, draws["scale"][:, None]).log_prob(y)
    np.testing.assert_allclose(found["log_likelihood"]["obs"].values[0], expected, rtol=1e-5)


@pytest.mark.parametrize("centred", [True, False])
def test_the_schools_have_a_likelihood_given_what_they_share(centred):
    y = torch.tensor([28.0, 8.0, -3.0, 7.0])
    model = schools if centred else pyro.poutine.reparam(schools, {"theta": LocScaleReparam(0.0)})
    guide = AutoNormal(model, init_scale=0.1)
    guide(y, SIGMA)
    setattr(guide.scales, "theta" if centred else "theta_decentered", torch.full((4,), 1.2))
    found = dv.to_arviz(model, guide, y, SIGMA, num_draws=3, num_samples=400, seed=0)
    mu, tau = (torch.from_numpy(found["posterior"][name].values[0][:, None]) for name in ("mu", "tau"))
    expected = dist.Normal(mu, (tau**2 + SIGMA**2).sqrt()).log_prob(y)
    np.testing.assert_allclose(found["log_likelihood"]["obs"].values[0], expected, atol=0.08)
    assert set(found["observed_data"].data_vars) == {"obs"}
