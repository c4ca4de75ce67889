"""A trained pair in use: codes, decoding, denoising, samples against closed forms."""

import math

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.reparam import LocScaleReparam
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import latent_means
from pyro_dvae.networks import (
    BernoulliDecoder,
    CountEncoder,
    GaussianDecoder,
    GaussianEncoder,
    PoissonDecoder,
)

N, D, LATENT = 17, 4, 2


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


class Linear(nn.Module):
    """z ~ N(0, 1), x ~ N(W z, 1); the guide N(A x̃, s²)."""

    def __init__(self, noise=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(torch.randn(D, LATENT, generator=generator))
        self.a = nn.Parameter(torch.randn(LATENT, D, generator=generator) / 3)
        self.noise, self.scale = noise, 0.4

    def model(self, x, shift=0.0):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T + shift, 1).to_event(1), obs=x)

    def guide(self, x, shift=0.0):
        with pyro.plate("data", len(x)):
            if self.noise:
                x = dv.corrupt("noisy", dv.GaussianNoise(self.noise), x)
            pyro.sample("z", dist.Normal((x - shift) @ self.a.T, self.scale).to_event(1))


def data(count=N):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(2))


def test_codes_equal_those_of_the_guide():
    pair, x = Linear(), data()
    codes = dv.encode(pair.model, pair.guide, x, num_draws=4000, seed=1, batch_size=5)
    torch.testing.assert_close(codes["z"], (x @ pair.a.T).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(codes.standard_deviation["z"], torch.full((N, LATENT), 0.4))
    drawn = codes.draws["z"]
    assert drawn.shape == (4000, N, LATENT)
    assert float((drawn.mean(0) - codes["z"]).abs().max()) < 5 * 0.4 / math.sqrt(4000)
    assert str(codes).startswith("codes of 17 rows\nz  [2]  standard deviation 0.4")


def test_a_noisy_guide_has_the_variance_of_both_draws():
    pair, x = Linear(noise=0.5), data()
    clean = dv.encode(pair.model, pair.guide, x, seed=1)
    torch.testing.assert_close(clean.standard_deviation["z"], torch.full((N, LATENT), 0.4))
    noisy = dv.encode(pair.model, pair.guide, x, clean=False, num_samples=4000, seed=1)
    variance = 0.4**2 + 0.25 * (pair.a**2).sum(1).detach()
    assert float((noisy.standard_deviation["z"] ** 2 / variance - 1).abs().max()) < 0.15
    error = 5 * (0.25 * (pair.a**2).sum(1)).sqrt().max().detach() / math.sqrt(4000)
    assert float((noisy["z"] - clean["z"]).abs().max()) < float(error)


def test_decoding_and_what_follows_from_it():
    pair, x = Linear(), data()
    codes = dv.encode(pair.model, pair.guide, x)
    expected = (codes["z"] @ pair.w.T).detach()
    for given in (codes, codes.mean, codes["z"]):
        torch.testing.assert_close(dv.decode(pair.model, given, x[:1]), expected)
    drawn = dv.decode(pair.model, codes, x, values=True, seed=1)
    assert 0.7 < float((drawn - expected).std()) < 1.3
    path = dv.interpolate(pair.model, pair.guide, x[:3], x[3:6], steps=5)
    for number, weight in enumerate(torch.linspace(0, 1, 5)):
        mixed = torch.lerp(expected[:3], expected[3:6], weight)
        torch.testing.assert_close(path[number], mixed, rtol=1e-9, atol=1e-9)


def test_denoising_is_the_mean_over_the_guides_draws_on_the_rows_as_they_are():
    pair, x = Linear(noise=0.5), data()
    found = dv.denoise(pair.model, pair.guide, x, num_samples=2000, seed=1, batch_size=7)
    expected = (x @ pair.a.T @ pair.w.T).detach()
    error = 5 * 0.4 * (pair.w**2).sum(1).sqrt().max().detach() / math.sqrt(2000)
    assert float((found - expected).abs().max()) < float(error)
    with pytest.raises(dv.InputError, match=r"^clean: the given rows are already noisy"):
        dv.denoise(pair.model, pair.guide, x, clean=False)


def test_samples_have_the_models_covariance_and_repeat_under_a_seed():
    pair = Linear()
    x = dv.sample(pair.model, data(1), num_samples=5000, seed=3)
    assert torch.equal(x, dv.sample(pair.model, data(1), num_samples=5000, seed=3))
    covariance = (pair.w @ pair.w.T).detach() + torch.eye(D)
    assert float((torch.cov(x.T) - covariance).abs().max()) < 0.25
    means = dv.sample(pair.model, data(1), num_samples=5000, seed=3, values=False)
    assert float(torch.cov(means.T).diagonal().sum()) < float(torch.cov(x.T).diagonal().sum()) - D / 2


def test_random_streams_modes_and_the_param_store_stay_as_they_were():
    pair = Linear()
    pair.train()
    before = torch.get_rng_state()
    store = set(pyro.get_param_store().keys())
    dv.encode(pair.model, pair.guide, data(), num_draws=3, seed=1)
    dv.reconstruct(pair.model, pair.guide, data(), seed=1)
    dv.sample(pair.model, data(1), num_samples=3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert pair.training
    assert set(pyro.get_param_store().keys()) == store


def fitted_pair(**options):
    pair = dv.DVAE(GaussianEncoder(D, LATENT, (8,)), GaussianDecoder(D, LATENT, (8,)), dv.GaussianNoise(0.2))
    options = {"epochs": 3, "batch_size": 6, "progress": False, "validation": data(5)} | options
    return pair, dv.fit(pair.model, pair.guide, data(), loss=dv.TraceDenoising_ELBO(), **options)


def test_a_fitted_pair_has_the_verbs_as_methods():
    pair, fitted = fitted_pair()
    x = data()
    functions = {
        "encode": dv.encode(pair.model, pair.guide, x)["z"],
        "reconstruct": dv.reconstruct(pair.model, pair.guide, x, seed=1),
        "denoise": dv.denoise(pair.model, pair.guide, x, seed=1),
        "log_likelihood": dv.log_likelihood(pair.model, pair.guide, x, seed=1, num_samples=50).log_likelihood,
    }
    assert torch.equal(fitted.encode(x)["z"], functions["encode"])
    assert torch.equal(fitted.reconstruct(x, seed=1), functions["reconstruct"])
    assert torch.equal(fitted.denoise(x, seed=1), functions["denoise"])
    found = fitted.log_likelihood(x, seed=1, num_samples=50).log_likelihood
    assert torch.equal(found, functions["log_likelihood"])
    codes = fitted.encode(x)
    assert torch.equal(fitted.decode(codes), dv.decode(pair.model, codes, x[:1]))
    assert fitted.sample(5, seed=1).shape == (5, D)
    assert fitted.interpolate(x[:2], x[2:4], steps=3).shape == (3, 2, D)
    assert {"encode", "sample", "history"} <= set(dir(fitted))
    with pytest.raises(AttributeError, match="Fitted has no attribute 'encod'"):
        fitted.encod  # noqa: B018


def test_constants_and_several_arguments_are_known_to_a_fitted_pair():
    pair = Linear()
    options = {"epochs": 1, "progress": False}
    fitted = dv.fit(pair.model, pair.guide, data(), loss=dv.TraceDenoising_ELBO(), shift=2.0, **options)
    expected = dv.encode(pair.model, pair.guide, data(), shift=2.0)["z"]
    assert torch.equal(fitted.encode(data())["z"], expected)
    torch.testing.assert_close(fitted.decode(torch.zeros(3, LATENT)), torch.full((3, D), 2.0))
    pyro.clear_param_store()
    shifted = Linear()

    def model(x, y):
        return shifted.model(x, shift=y[:, None])

    def guide(x, y):
        return shifted.guide(x, shift=y[:, None])

    y = data()[:, 0]
    fitted = dv.fit(model, guide, data(), y, loss=dv.TraceDenoising_ELBO(), **options)
    with pytest.raises(dv.InputError, match=r"^data: the model takes 2 data arguments"):
        fitted.sample(3)
    means = fitted.decode(torch.zeros(N, LATENT), data(), y)
    torch.testing.assert_close(means, y[:, None].expand(N, D))
    assert fitted.sample(4, data()[:1], y[:1], values=False).shape == (4, D)
    labels = torch.tensor([-9.0, 0.0, 9.0])
    few = fitted.sample(300, labels, seed=0)  # the rows themselves are drawn, so labels are enough
    torch.testing.assert_close(few.reshape(100, 3, D).mean((0, 2)), labels, rtol=0.05, atol=0.5)
    assert torch.equal(fitted.decode(torch.zeros(3, LATENT), labels), labels[:, None].expand(3, D))
    path = fitted.interpolate((data()[:3], labels), (data()[3:6], labels), steps=4)
    ends = [fitted.decode(fitted.encode(rows, labels), labels) for rows in (data()[:3], data()[3:6])]
    torch.testing.assert_close(path[[0, -1]], torch.stack(ends))


def test_saved_and_loaded(tmp_path):
    _, fitted = fitted_pair()
    fitted.save(tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"model.safetensors", "README.md"}
    card = (tmp_path / "mine/README.md").read_text()
    assert "dv.load(" in card
    assert "validation bound of the best epoch" in card
    other = dv.DVAE(GaussianEncoder(D, LATENT, (8,)), GaussianDecoder(D, LATENT, (8,)), dv.GaussianNoise(0.2))
    pyro.clear_param_store()
    loaded = dv.load(tmp_path / "mine", model=other.model, guide=other.guide)
    assert torch.equal(loaded.encode(data())["z"], fitted.encode(data())["z"])
    assert loaded.history.train_bound == fitted.history.train_bound
    assert not other.model.training
    loaded.sample(2)
    smaller = dv.DVAE(GaussianEncoder(D, LATENT, (7,)), GaussianDecoder(D, LATENT, (8,)))
    pyro.clear_param_store()
    with pytest.raises(dv.CheckpointError, match=r"the checkpoint has .*, this run has"):
        dv.load(tmp_path / "mine", model=smaller.model, guide=smaller.guide)
    complete = dv.load(tmp_path / "mine")
    assert torch.equal(complete.encode(data())["z"], fitted.encode(data())["z"])
    with pytest.raises(dv.InputError, match=r"holds neither config\.json nor model\.safetensors"):
        dv.load(tmp_path)


def test_a_budget_of_memory_changes_how_many_rows_run_together_and_nothing_else():
    pair, x = Linear(noise=0.5), data()
    seen = []
    guide = lambda rows: seen.append(len(rows)) or pair.guide(rows)  # noqa: E731
    means = dv.encode(pair.model, guide, x, memory=64 * D * 5)["z"]
    assert max(seen) == 5
    torch.testing.assert_close(means, dv.encode(pair.model, pair.guide, x)["z"])
    few = {"memory": 1, "seed": 1}  # a row at a time
    assert dv.sample(pair.model, x[:1], num_samples=3, **few).shape == (3, D)
    torch.testing.assert_close(
        dv.decode(pair.model, means, x[:1], memory=1), dv.decode(pair.model, means, x[:1])
    )
    assert dv.reconstruct(pair.model, pair.guide, x, **few).shape == (N, D)
    assert dv.interpolate(pair.model, pair.guide, x, x, **few).shape == (8, N, D)
    with pytest.raises(dv.InputError, match="memory: expected"):
        dv.encode(pair.model, pair.guide, x, memory=0)


def test_counts_at_their_own_depth_or_at_a_common_one():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 0.0, 0.0, 10.0], [0.0, 0.0, 0.0, 0.0]])
    pair = dv.DVAE(CountEncoder(D, LATENT, (8,)), PoissonDecoder(D, LATENT, (8,)), dv.BinomialThinning(0.2))
    own = dv.denoise(pair.model, pair.guide, x, seed=0)
    torch.testing.assert_close(own.sum(1), x.sum(1), rtol=1e-6, atol=1e-6)
    common = dv.denoise(pair.model, pair.guide, x, seed=0, library_size=1000.0)
    torch.testing.assert_close(common.sum(1), torch.full((3,), 1000.0))
    torch.testing.assert_close(common[:2], 1000 * own[:2] / own[:2].sum(1, keepdim=True))
    linear = Linear()
    with pytest.raises(dv.InputError, match="library_size: expected a model of counts, got means below 0"):
        dv.denoise(linear.model, linear.guide, data(), library_size=1.0)


def test_refusals():
    pair, x = Linear(), data()
    with pytest.raises(
        dv.InputError, match="codes: expected the result of encode, or tensors of the same N codes by site"
    ):
        dv.decode(pair.model, {"z": torch.zeros(3, 2), "y": torch.zeros(2, 2)}, x)
    with pytest.raises(dv.InputError, match="expected one row, or the 3 rows of the codes, got 17"):
        dv.decode(pair.model, torch.zeros(3, LATENT), x)
    with pytest.raises(dv.InputError, match="data_site: unknown name 'y'"):
        dv.sample(pair.model, x[:1], data_site="y")
    with pytest.raises(dv.InputError, match="end: expected 2 rows as in start, got 3"):
        dv.interpolate(pair.model, pair.guide, x[:2], x[:3])
    categories = dv.DVAE(GaussianEncoder(D, LATENT), BernoulliDecoder(D, LATENT))
    assert dv.decode(categories.model, torch.zeros(2, LATENT), torch.zeros(1, D)).shape == (2, D)


def test_a_table_has_the_columns_of_training(tmp_path):
    pair, frame = Linear(), pd.DataFrame(data().numpy(), columns=list("abcd"))
    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 1, "progress": False, "compile": False}
    fitted = dv.fit(pair.model, pair.guide, frame, **options)
    fitted.save(tmp_path / "saved")
    loaded = dv.load(tmp_path / "saved", model=pair.model, guide=pair.guide)
    codes = fitted.encode(frame)["z"]
    for each in (fitted, loaded):
        assert torch.equal(each.encode(frame.to_numpy())["z"], codes)
        for odd, found in (
            (frame[list("abdc")], "'d' in place of 'c'"),
            (frame.assign(e=1.0), "'e' in place of no"),
            (frame[list("abc")], "no further column in place of 'd'"),
        ):
            for verb in ("encode", "reconstruct", "log_likelihood", "impute"):
                with pytest.raises(dv.InputError, match=f"^data: expected the columns of .* got {found}"):
                    getattr(each, verb)(odd)


class Two:
    """An argument of a program that cannot be stored in a file."""

    def __radd__(self, x):
        return x + 2

    def __rsub__(self, x):
        return x - 2


def test_a_saved_model_keeps_its_constants(tmp_path):
    pair, x = Linear(), data()
    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 1, "progress": False, "compile": False}
    for constant in (2.5, torch.arange(4.0)):
        fitted = dv.fit(pair.model, pair.guide, x, shift=constant, **options)
        fitted.save(tmp_path / "saved")
        loaded = dv.load(tmp_path / "saved", model=pair.model, guide=pair.guide)
        assert torch.equal(loaded.encode(x)["z"], fitted.encode(x)["z"])
        assert not torch.equal(loaded.encode(x)["z"], loaded.encode(x, shift=0.0)["z"])
    fitted = dv.fit(pair.model, pair.guide, x, shift=Two(), **options)
    with pytest.warns(UserWarning, match="it cannot hold the keyword arguments 'shift'"):
        fitted.save(tmp_path / "saved")
    with pytest.warns(
        UserWarning, match="trained with the keyword arguments 'shift', which are not in the fold"
    ):
        dv.load(tmp_path / "saved", model=pair.model, guide=pair.guide)
    (tmp_path / "file").touch()
    with pytest.raises(dv.InputError, match=r"^folder: .*file is a file; name a folder"):
        fitted.save(tmp_path / "file")


class Unsized(Linear):
    """The same pair with plates that have no size, as in Pyro's semi-supervised and conditional examples."""

    def model(self, x, with_rows=True):
        pyro.module("pair", self)
        with pyro.plate("data"):
            loc = x.new_zeros(len(x), LATENT) if with_rows else x.new_zeros(LATENT)
            z = pyro.sample("z", dist.Normal(loc, 1).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T, 1).to_event(1), obs=x)

    def guide(self, x, with_rows=True):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(x @ self.a.T, self.scale).to_event(1))


def test_plates_without_a_size_have_the_rows_of_their_sites():
    x = data()
    gaps = x.clone()
    gaps[::2, 1] = math.nan
    once = {"num_samples": 50, "refine": False, "progress": False, "seed": 0}
    verbs = {
        "encode": lambda pair: dv.encode(pair.model, pair.guide, x, num_draws=2, seed=0).draws["z"],
        "reconstruct": lambda pair: dv.reconstruct(pair.model, pair.guide, x, seed=0),
        "sample": lambda pair: dv.sample(pair.model, x[:1], num_samples=5, seed=0),
        "condition": lambda pair: dv.condition(pair.model, pair.guide, gaps, **once).draws,
        "with a mask model": lambda pair: (
            dv.condition(pair.model, pair.guide, gaps, mask_model=dv.networks.SelfMasking(D), **once).draws
        ),
        "active_units": lambda pair: dv.evaluation.active_units(pair.model, pair.guide, x).activity["z"],
    }
    for name, verb in verbs.items():
        assert torch.equal(verb(Unsized()), verb(Linear())), name


def test_a_prior_without_rows_in_a_plate_without_a_size_has_no_rows():
    pair, x = Unsized(), data()
    remedy = r"plate\('data', len\(x\)\)$"
    for count in (1, D, N):  # also where the columns are as many as the rows
        with pytest.raises(dv.InputError, match=f"^model: expected {count} rows at site 'x', got .*{remedy}"):
            dv.sample(pair.model, x[:1], num_samples=count, with_rows=False)
    with pytest.raises(dv.InputError, match=f"^model: expected one plate with the {N} rows .*{remedy}"):
        dv.condition(pair.model, pair.guide, x, with_rows=False, refine=False, num_samples=25)


class Directions(nn.Module):
    """Angles near π, whose means in two runs of a noisy guide lie on both sides of the cut."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.VonMises(z, 4.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.3), torch.stack([x.cos(), x.sin()], -1))
            pyro.sample("z", dist.VonMises(torch.atan2(x_tilde[..., 1], x_tilde[..., 0]), 4.0))


def test_codes_of_angles_are_directions():
    """For von Mises z: R = I₁(κ) / I₀(κ), and the circular standard deviation is (-2 log R)^½."""
    pair, x = Directions(), torch.tensor([math.pi - 0.01, 0.5, -3.0])
    clean = dv.encode(pair.model, pair.guide, x)
    torch.testing.assert_close(clean["z"], x, rtol=0, atol=1e-5)
    resultant = torch.special.i1e(torch.tensor(4.0)) / torch.special.i0e(torch.tensor(4.0))
    expected = (-2 * resultant.log()).sqrt().expand(3)
    torch.testing.assert_close(clean.standard_deviation["z"], expected, rtol=1e-4, atol=0)
    noisy = dv.encode(pair.model, pair.guide, x, clean=False, num_samples=2000, num_draws=4000, seed=1)
    assert float(torch.sin(noisy["z"] - x).abs().max()) < 0.05
    assert float(torch.cos(noisy["z"] - x).min()) > 0.99
    drawn = torch.exp(1j * noisy.draws["z"]).mean(0).abs()
    torch.testing.assert_close(noisy.standard_deviation["z"], (-2 * drawn.log()).sqrt(), rtol=0.08, atol=0)


def test_means_of_angles_are_not_averaged_as_numbers():
    pair, x = Directions(), torch.tensor([math.pi - 0.01, 0.5])
    torch.testing.assert_close(latent_means(pair.model, pair.guide, x)["z"], x, rtol=0, atol=1e-5)
    with pytest.raises(
        InputError, match="'z' is an angle, whose draws would be averaged as numbers; use enc"
    ):
        latent_means(pair.model, pair.guide, x, clean=False)
    with pytest.raises(
        InputError, match="'x' is an angle, whose means would be averaged as numbers; use dec"
    ):
        dv.reconstruct(pair.model, pair.guide, x)
    decoded = dv.decode(pair.model, {"z": x}, x)
    torch.testing.assert_close(decoded, x)


class OtherNames(nn.Module):
    """Pyro's own VAE calls its sites latent and obs."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(self.decoder(z), 0.1).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(self.encoder(x), 0.1).to_event(1))


def test_the_only_latent_and_the_only_observed_site_need_no_name():
    torch.manual_seed(0)
    pair, x = OtherNames(), torch.randn(5, 4)
    with torch.no_grad():
        code = pair.encoder(x)
        exact = pair.decoder(code)
    for found in (
        dv.decode(pair.model, dv.encode(pair.model, pair.guide, x), x),
        dv.decode(pair.model, code, x[:1]),
        dv.decode(pair.model, code, x[:1], site="latent", data_site="obs"),
        dv.interpolate(pair.model, pair.guide, x, x)[3],
        dv.reconstruct(pair.model, pair.guide, x, num_samples=20_000, seed=0),
    ):
        torch.testing.assert_close(found, exact, atol=0.01, rtol=0)
    assert dv.sample(pair.model, x[:1], num_samples=3).shape == (3, 4)
    with pytest.raises(dv.InputError, match=r"site: unknown name 'z'; known: latent"):
        dv.decode(pair.model, code, x[:1], site="z")
    with pytest.raises(dv.InputError, match=r"site: unknown name 'obs'; known: latent"):
        dv.decode(pair.model, {"obs": x}, x[:1])


def test_one_of_several_observed_sites_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("left", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("right", dist.Normal(z, 1.0), obs=x[:, 1])

    with pytest.raises(
        dv.InputError, match="data_site: the model observes 'left', 'right'; name one of them"
    ):
        dv.decode(model, torch.zeros(3), torch.zeros(3, 2))
    assert dv.decode(model, torch.ones(3), torch.zeros(3, 2), data_site="right").tolist() == [1.0] * 3


def labelled(x, y):
    """A model of rows and their labels, as semi-supervised ones: x ~ N(z + 10 y, 0.5)."""
    pyro.param("unused", torch.zeros(()))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        y = pyro.sample("y", dist.Bernoulli(0.5), obs=y)
        pyro.sample("x", dist.Normal(z + 10 * y[..., None], 0.5).to_event(1), obs=x)


def labelled_guide(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x - 10 * y[..., None], 0.5).to_event(1))


def test_labels_that_the_model_observes_are_kept():
    y = torch.tensor([0.0, 1.0, 1.0])
    x = torch.randn(3, 2) + 10 * y[:, None]
    loss = dv.TraceDenoising_ELBO()
    fitted = dv.fit(labelled, labelled_guide, x, y, loss=loss, epochs=1, progress=False)
    assert torch.equal(fitted.decode(torch.zeros(3, 2), y), 10 * y[:, None].expand(3, 2))
    torch.testing.assert_close(fitted.decode(fitted.encode(x, y), x, y), x)
    drawn = fitted.sample(600, y, seed=0).reshape(200, 3, 2)
    torch.testing.assert_close(drawn.mean((0, 2)), 10 * y, atol=4.5 * (1.25 / 400) ** 0.5, rtol=0)
    assert torch.equal(dv.sample(labelled, x, y, num_samples=600, seed=0).reshape(200, 3, 2), drawn)
    torch.testing.assert_close(fitted.interpolate((x, y), (x, y), steps=2), torch.stack([x, x]))
    assert set(fitted.sample(50, y, data_site="y", seed=0).tolist()) == {0.0, 1.0}  # y itself is drawn


def test_a_regression_needs_its_input():
    """The first argument is an input (of a conditional VAE, too), so a stored row cannot replace it."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))
            pyro.sample("y", dist.Normal(100 * x + z, 0.1), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(y - 100 * x, 0.1))

    x = torch.arange(4.0)
    loss = dv.TraceDenoising_ELBO()
    fitted = dv.fit(model, guide, x, 100 * x, loss=loss, epochs=1, learning_rate=1e-6, progress=False)
    for call in (lambda *rows: fitted.sample(4, *rows), lambda *rows: fitted.decode(torch.zeros(4), *rows)):
        with pytest.raises(dv.InputError, match=r"does not observe its first .* pass all 2 data arguments"):
            call(x)
        torch.testing.assert_close(call(x, torch.zeros(4)), 100 * x, atol=6.0, rtol=0)


def test_a_reparameterised_site_is_no_observation():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(3.0)), 2.0))
            pyro.sample("obs", dist.Normal(z, 0.1), obs=x)

    decentred = pyro.poutine.reparam(model, {"z": LocScaleReparam(0.0)})
    drawn = dv.sample(decentred, torch.zeros(1), num_samples=1000, seed=0)
    assert float(drawn.mean()) == pytest.approx(3.0, abs=4.5 * 2 / 1000**0.5)
    assert torch.equal(
        dv.decode(decentred, torch.tensor([0.0, 1.0]), torch.zeros(1)), torch.tensor([3.0, 5.0])
    )


def test_a_model_with_batch_normalisation_is_loaded(tmp_path):
    """The folder holds one row, on which batch normalisation cannot train."""

    def pair():
        encoder = nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Linear(6, LATENT))
        linear = Linear()

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

        return linear.model, guide

    fitted = dv.fit(*pair(), data(), loss=dv.TraceDenoising_ELBO(), epochs=2, progress=False)
    fitted.save(tmp_path / "model")
    expected = fitted.encode(data())["z"]
    pyro.clear_param_store()
    model, guide = pair()
    loaded = dv.load(tmp_path / "model", model=model, guide=guide)
    assert torch.equal(loaded.encode(data())["z"], expected)


def on_the_left(x):
    """The rows in dimension -1, a plate of three times left of them: z_t ~ N(0, 1), x_t ~ N(t z_t, t)."""
    time = torch.arange(1.0, 4.0)[:, None]
    with pyro.plate("data", len(x), dim=-1), pyro.plate("time", 3, dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(time * z, time), obs=x.t())


def left_guide(x):
    """The exact posterior, with t x_t / 2t² as its mean."""
    time = torch.arange(1.0, 4.0)[:, None]
    with pyro.plate("data", len(x), dim=-1), pyro.plate("time", 3, dim=-2):
        pyro.sample("z", dist.Normal(x.t() / (2 * time), math.sqrt(0.5)))


@pytest.mark.parametrize("count", [3, 5])
def test_codes_and_rows_have_one_layout_wherever_the_plates_are(count):
    """Rows come first, also if there are as many of them as elements of the other plate."""
    time = torch.arange(1.0, 4.0)
    codes = torch.randn(count, 3)
    torch.testing.assert_close(dv.decode(on_the_left, codes, torch.zeros(1, 3)), time * codes)
    drawn = torch.cat([dv.sample(on_the_left, torch.zeros(1, 3), num_samples=count) for _ in range(600)])
    torch.testing.assert_close(drawn.std(0), time * math.sqrt(2.0), rtol=0.1, atol=0.0)


def test_codes_of_rows_in_a_dimension_further_left():
    """Persons × items, with one latent for each person."""
    difficulty = torch.tensor([-1.0, 0.0, 1.0, 2.0])

    def model(x):
        with pyro.plate("persons", len(x), dim=-2):
            ability = pyro.sample("ability", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("items", 4, dim=-1):
                pyro.sample("x", dist.Bernoulli(logits=ability - difficulty), obs=x)

    ability = torch.tensor([0.3, -2.0, 1.0])
    expected = (ability[:, None] - difficulty).sigmoid()
    torch.testing.assert_close(dv.decode(model, ability, torch.zeros(1, 4)), expected)


def test_likelihoods_of_rows_whose_items_have_their_own_latents():
    """Each item has a weight in a bound; in log p(x) of a row, its items are one."""
    x = torch.randn(5, 3)
    expected = dist.Normal(0.0, torch.arange(1.0, 4.0) * math.sqrt(2.0)).log_prob(x).sum(1)
    for loss in (dv.TraceDenoising_ELBO(), dv.TraceDenoisingIWAE_ELBO(num_particles=2)):
        found = dv.evaluate_bound(on_the_left, left_guide, x, loss=loss, batch_size=2).per_datum
        torch.testing.assert_close(found, expected)
    for options in ({}, {"defensive": 0.5}):
        found = dv.log_likelihood(on_the_left, left_guide, x, num_samples=30_000, seed=0, **options)
        atol = 1e-9 if not options else 5 * float(found.standard_error.max())
        torch.testing.assert_close(found.log_likelihood, expected, rtol=0, atol=atol)
    gaps = dv.inference_gaps(on_the_left, left_guide, x, num_samples=25, seed=0)
    torch.testing.assert_close(gaps.encoder, expected)
