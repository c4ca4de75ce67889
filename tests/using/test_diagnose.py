"""Each fault of a fit is found, and no other, in linear-Gaussian pairs whose values are known."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianDecoder, GaussianEncoder

D, LATENT, SCALE = 4, 2, 0.6
QUICK = {
    "refine": dv.Refinement(num_steps=100, learning_rate=0.05, annealing_steps=0),
    "num_samples": 400,
    "seed": 0,
}
QUICK |= {"seed": 0, "compile": False, "progress": False}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


class Pair:
    """z ~ N(0, I), x ~ N(W z, s²) with orthogonal columns of W, so that the posterior is diagonal.

    :param norms: lengths of the columns; 0 makes a latent dead.
    :param assumed: the scale that the model believes in; rows have the scale ``SCALE``.
    :param shift: added to the mean of the guide.
    :param stretch: factor of its standard deviation.
    """

    def __init__(self, norms=(1.5, 1.0), assumed=SCALE, shift=0.0, stretch=1.0):
        basis = torch.linalg.qr(torch.randn(D, LATENT, generator=torch.Generator().manual_seed(0)))[0]
        self.w, self.assumed = basis * torch.tensor(norms), assumed
        self.precision = 1 + (self.w**2).sum(0) / assumed**2
        self.shift, self.stretch = shift, stretch

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T, self.assumed).to_event(1), obs=x)

    def guide(self, x):
        mean = x @ self.w / self.assumed**2 / self.precision + self.shift
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, self.stretch / self.precision.sqrt()).to_event(1))

    def rows(self, count=150, seed=1, scale=SCALE):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(count, LATENT, generator=generator)
        return z @ self.w.T + scale * torch.randn(count, D, generator=generator)

    def divergence(self):
        """KL(guide ‖ posterior), the same for every row."""
        variance, shifts = self.stretch**2, self.shift**2 * self.precision
        return float(0.5 * (variance - 1 - math.log(variance) + shifts).sum())

    def evidence(self, x):
        covariance = self.w @ self.w.T + self.assumed**2 * torch.eye(D)
        return dist.MultivariateNormal(torch.zeros(D), covariance).log_prob(x)


def test_the_exact_posterior_is_good_in_everything():
    pair = Pair()
    x, training = pair.rows(), pair.rows(seed=2)
    found = dv.diagnose(pair.model, pair.guide, x, training=training, **QUICK)
    assert found.good
    assert not found.left_out
    names = ["bound", "approximation gap", "amortisation gap", "Pareto k", "active units", "calibration"]
    assert [each.name for each in found.findings] == [*names, "over-fitting"]
    for name in names[:3]:
        assert found[name].value == pytest.approx(0, abs=0.02)
    assert found["Pareto k"].value == 0
    assert found["active units"].value == 1
    exact = float(pair.evidence(training).mean() - pair.evidence(x).mean())
    assert found["over-fitting"].value == pytest.approx(exact, abs=1e-6)
    assert all(each.remedy == "" for each in found.findings)
    again = dv.diagnose(pair.model, pair.guide, x, training=training, **QUICK)
    assert again.to_dict() == found.to_dict()


def test_a_bad_guide_has_an_amortisation_gap():
    pair = Pair(shift=0.35, stretch=1.3)
    found = dv.diagnose(pair.model, pair.guide, pair.rows(), training=pair.rows(seed=2), **QUICK)
    assert found.flagged == ("amortisation gap",)
    one = found["amortisation gap"]
    assert one.value == pytest.approx(pair.divergence(), abs=0.05)
    assert "larger encoder" in one.remedy
    assert "larger encoder" in str(found)
    assert "amortisation gap: not good" in str(found).splitlines()[0]


def test_a_narrow_guide_has_bad_weights_too():
    pair = Pair(shift=0.6, stretch=0.4)
    found = dv.diagnose(pair.model, pair.guide, pair.rows(40), training=pair.rows(40, seed=2), **QUICK)
    assert found.flagged == ("amortisation gap", "Pareto k")
    assert found["Pareto k"].value > 0.3
    assert "refine=True" in found["Pareto k"].remedy


def test_a_diagonal_guide_of_a_correlated_posterior_has_an_approximation_gap():
    w = torch.tensor([[2.0, 1.8], [1.0, 1.1], [0.3, 0.3], [0.5, 0.4]])
    precision = torch.eye(LATENT) + w.T @ w
    gap = float(0.5 * (precision.diagonal().log().sum() - precision.logdet()))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w.T, 1.0).to_event(1), obs=x)

    def mean(x):
        return torch.linalg.solve(precision, x @ w, left=False)

    def diagonal(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean(x), precision.diagonal() ** -0.5).to_event(1))

    def full(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean(x), precision_matrix=precision))

    x = torch.randn(60, LATENT) @ w.T + torch.randn(60, D)
    found = dv.diagnose(model, diagonal, x, **QUICK)
    assert "approximation gap" in found.flagged
    assert "amortisation gap" not in found.flagged
    assert found["approximation gap"].value == pytest.approx(gap, abs=0.1)
    assert "FullCovarianceGuide" in found["approximation gap"].remedy
    assert "over-fitting" in found.left_out
    # A guide that has the covariance is judged against log p(x), not against the diagonal.
    assert dv.diagnose(model, full, x, **QUICK).good


def test_dead_latents_are_found():
    pair = Pair(norms=(0.0, 0.0))
    found = dv.diagnose(pair.model, pair.guide, pair.rows(), training=pair.rows(seed=2), **QUICK)
    assert found.flagged == ("active units",)
    assert found["active units"].text == "0 of 2"
    assert "carry nothing" in found["active units"].remedy
    half = Pair(norms=(1.5, 0.0))
    assert dv.diagnose(half.model, half.guide, half.rows(60), **QUICK)["active units"].good


@pytest.mark.parametrize(("assumed", "words"), [(0.35, "too certain"), (1.2, "too uncertain")])
def test_a_decoder_of_the_wrong_scale_is_found(assumed, words):
    pair = Pair(assumed=assumed)
    found = dv.diagnose(pair.model, pair.guide, pair.rows(), training=pair.rows(seed=2), **QUICK)
    assert found.flagged == ("calibration",)
    assert words in found["calibration"].remedy


def test_the_coverage_equals_that_of_the_conditional_normal():
    """One hidden cell of each row: its share in the central interval has a closed form given the others."""
    pair, x = Pair(assumed=0.35), Pair().rows(400, seed=5)
    found = dv.diagnose(pair.model, pair.guide, x, num_rows=400, hidden=0.25, **QUICK)["calibration"]
    covariance = pair.w @ pair.w.T + pair.assumed**2 * torch.eye(D)
    truth = pair.w @ pair.w.T + SCALE**2 * torch.eye(D)
    shares = []
    for cell in range(D):
        rest = [n for n in range(D) if n != cell]
        weight = torch.linalg.solve(covariance[rest][:, rest], covariance[rest, cell])
        believed = covariance[cell, cell] - weight @ covariance[rest, cell]
        contrast = torch.zeros(D)
        contrast[cell], contrast[rest] = 1.0, -weight
        ratio = (believed / (contrast @ truth @ contrast)).sqrt()
        shares.append(2 * dist.Normal(0.0, 1.0).cdf(ratio * 1.6449) - 1)
    assert abs(found.value - float(torch.stack(shares).mean())) < 4 * found.error
    assert found.error == pytest.approx(0.02, abs=0.01)


def test_an_over_fitted_model_is_found():
    pair = Pair()
    # Rows nearer to the model's mean than new ones are.
    training = pair.rows(seed=2) * 0.5
    x = pair.rows()
    found = dv.diagnose(pair.model, pair.guide, x, training=training, **QUICK)
    assert found.flagged == ("over-fitting",)
    exact = float(pair.evidence(training).mean() - pair.evidence(x).mean())
    assert found["over-fitting"].value == pytest.approx(exact, abs=1e-6)
    assert "more data" in found["over-fitting"].remedy


def test_a_tolerance_decides():
    pair = Pair(shift=0.35, stretch=1.3)
    assert dv.diagnose(pair.model, pair.guide, pair.rows(40), tolerance=5.0, **QUICK).good
    exact = Pair()
    found = dv.diagnose(exact.model, exact.guide, exact.rows(40), tolerance=1e-9, **QUICK)
    assert found["bound"].good is None


def binary(count):
    return torch.bernoulli(torch.full((count, D), 0.4), generator=torch.Generator().manual_seed(3))


def test_discrete_latents_have_a_bound_and_no_gaps():
    guide = dv.BernoulliGuide.of_sizes(D, LATENT, (4,))
    dvae = dv.DVAE(guide.encoder, BernoulliDecoder(D, LATENT, (4,)), prior=dv.BernoulliPrior(LATENT))
    found = dv.diagnose(dvae.model, guide, binary(30), **QUICK)
    assert found.left_out.keys() == {"approximation and amortisation gap", "calibration", "over-fitting"}
    assert "discrete" in found.left_out["approximation and amortisation gap"]
    assert found["bound"].good is not None
    assert "left out: calibration: " in str(found)


def test_a_mixture_with_its_posterior_is_good_in_all_that_it_can_have():
    means, weights = torch.tensor([-3.0, 0.0, 3.0])[:, None].expand(3, D), torch.tensor([0.5, 0.3, 0.2])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(means[z], 1.0).to_event(1), obs=x)

    def guide(x):
        log_joint = weights.log() + dist.Normal(means, 1.0).log_prob(x[:, None]).sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=log_joint))

    drawn = torch.multinomial(weights, 150, replacement=True, generator=torch.Generator().manual_seed(4))
    x = means[drawn] + torch.randn(150, D, generator=torch.Generator().manual_seed(5))
    found = dv.diagnose(model, guide, x, training=x, **QUICK)
    assert found.good
    assert found.left_out.keys() == {"approximation and amortisation gap"}
    assert found["bound"].value == pytest.approx(0, abs=1e-9)
    assert found["calibration"].value == pytest.approx(0.9, abs=4 * found["calibration"].error)
    assert found["over-fitting"].value == 0


def test_grey_values_of_a_bernoulli_have_no_calibration():
    dvae = dv.DVAE(GaussianEncoder(D, LATENT, (4,)), BernoulliDecoder(D, LATENT, (4,)))
    x = torch.rand(20, D)
    found = dv.diagnose(dvae.model, dvae.guide, x, **QUICK)
    assert "draws only 0 and 1" in found.left_out["calibration"]
    assert dv.diagnose(dvae.model, dvae.guide, x.round(), **QUICK)["calibration"].value > 0.7


def test_a_conditional_model_takes_its_labels():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(D + 1, LATENT)

        def model(self, x, y):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z[..., :1] + y[:, None].expand(-1, D), 1.0).to_event(1), obs=x)

        def guide(self, x, y):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                loc = self.encoder(torch.cat([x, y[:, None]], 1))
                pyro.sample("z", dist.Normal(loc, 0.6).to_event(1))

    pair, x, y = Conditional(), binary(30), torch.arange(30.0)
    found = dv.diagnose(pair.model, pair.guide, x, y, training=(x, y), **QUICK)
    assert not found.left_out
    assert found["over-fitting"].value == 0
    with pytest.raises(dv.InputError, match="training: expected a tuple of the 2 data arguments"):
        dv.diagnose(pair.model, pair.guide, x, y, training=x, **QUICK)


def test_a_fitted_pair_is_diagnosed():
    dvae = dv.DVAE(GaussianEncoder(D, LATENT, (4,)), GaussianDecoder(D, LATENT, (4,)), dv.GaussianNoise(0.1))
    x = Pair().rows(40)
    options = {"epochs": 2, "progress": False, "compile": False}
    fitted = dv.fit(dvae.model, dvae.guide, x, loss=dv.TraceDenoising_ELBO(), **options)
    found = fitted.diagnose(x, training=x, **QUICK)
    assert found.num_data == 40
    with fitted.in_use():
        assert dv.diagnose(fitted.model, fitted.guide, x, training=x, **QUICK).to_dict() == found.to_dict()


def test_rows_are_spread_and_the_random_stream_stays():
    pair = Pair()
    seen = []

    def model(x):
        seen.append(len(x))
        pair.model(x)

    state = torch.get_rng_state()
    found = dv.diagnose(model, pair.guide, pair.rows(150), num_rows=10, **QUICK)
    assert found.num_data == 10
    assert max(seen) <= 400 * 10
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals():
    pair = Pair()
    x = pair.rows(20)
    for name, value in (("hidden", 0.0), ("hidden", 1.0), ("level", 1.0)):
        with pytest.raises(dv.InputError, match=f"^{name}: expected a share between 0 and 1"):
            dv.diagnose(pair.model, pair.guide, x, **{name: value})
    with pytest.raises(dv.InputError, match=r"^refine: expected a Refinement"):
        dv.diagnose(pair.model, pair.guide, x, refine=3)
    with pytest.raises(dv.InputError, match=r"^tolerance: expected a number above 0"):
        dv.diagnose(pair.model, pair.guide, x, tolerance=0)

    def broken(x):
        raise ValueError("no such thing")

    with pytest.raises(dv.InputError, match="no such thing"):
        dv.diagnose(broken, pair.guide, x, **QUICK)
    found = SimpleNamespace(**dv.diagnose(pair.model, pair.guide, x, **QUICK).to_dict())
    assert found.num_data == 20
