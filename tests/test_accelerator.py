"""Entry points on an accelerator compared with the CPU: bounds, estimators, measures, compiled training."""

import math

import pyro
import pytest
import torch
from pyro.optim import Adam

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.sklearn import DenoisingVAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]
COUNTS = {"num_corruptions": 2, "num_particles": 3}
BOUNDS = {
    "mean": lambda **o: dv.TraceDenoising_ELBO(**COUNTS, **o),
    "mean, stl": lambda **o: dv.TraceDenoising_ELBO(**COUNTS, gradient="stl", **o),
    "mean field": lambda **o: dv.TraceMeanFieldDenoising_ELBO(**COUNTS, **o),
    "average": lambda **o: dv.TraceDenoisingIWAE_ELBO(**COUNTS, **o),
    "average, dreg": lambda **o: dv.TraceDenoisingIWAE_ELBO(**COUNTS, gradient="dreg", **o),
    "pooled": lambda **o: dv.TraceDenoisingIWAE_ELBO(**COUNTS, combine="pooled", **o),
    "mixture": lambda **o: dv.TraceDenoisingIWAE_ELBO(**COUNTS, combine="mixture", **o),
    "semi-implicit": lambda **o: dv.TraceSemiImplicit_ELBO(num_mixture=3, **o),
}


@pytest.fixture(autouse=True)
def _own_parameters():
    with pyro.settings.context(module_local_params=True):
        yield


def pair(device, dtype=torch.float64, learnable=False):
    torch.manual_seed(3)
    made = dv.DVAE(
        GaussianEncoder(40, 4, (16,)),
        BernoulliDecoder(40, 4, (16, 16)),
        dv.BitFlip(0.1, learnable=learnable),
    )
    return made.to(device, dtype), (torch.rand(60, 40) < 0.3).to(device, dtype)


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_and_its_gradient(name, looped):
    """Random streams differ between devices, so the means of many draws are compared."""
    found = {}
    for device in ("cpu", "cuda"):
        made, x = pair(device, learnable=True)
        bound = BOUNDS[name](vectorize_particles=not looped)
        pyro.set_rng_seed(0)
        losses = torch.tensor(
            [bound.loss_and_grads(made.model, made.guide, x) for _ in range(8 if looped else 60)]
        )
        for parameter in made.parameters():
            assert parameter.grad.device.type == device
            assert bool(torch.isfinite(parameter.grad).all())
        found[device] = losses
    error = math.hypot(*(float(v.std()) / math.sqrt(len(v)) for v in found.values()))
    assert abs(float(found["cpu"].mean() - found["cuda"].mean())) < 5 * error


@pytest.mark.parametrize(
    "options",
    [
        {"proposal": kind, "defensive": share}
        for kind in ("clean", "corrupted", "mixture")
        for share in (0.0, 0.2)
    ],
)
def test_every_proposal(options):
    made, x = pair("cpu")
    expected = dv.log_likelihood(made.model, made.guide, x, num_samples=3000, seed=1, **options)
    made, x = pair("cuda")
    found = dv.log_likelihood(made.model, made.guide, x, num_samples=3000, seed=1, **options)
    error = (found.standard_error.square() + expected.standard_error.square()).sqrt()
    assert bool(((found.log_likelihood - expected.log_likelihood).abs() < 6 * error).all())


def test_annealing_and_the_measures():
    made, x = pair("cuda")
    annealed = dv.annealed_log_likelihood(made.model, None, x, num_steps=20, num_chains=4, seed=1)
    assert bool(torch.isfinite(annealed.log_likelihood).all())
    report = dv.bounds_report(made.model, made.guide, x, seed=0)
    assert "L_dvae" in str(report)
    assert math.isfinite(dv.evaluate_bound(made.model, made.guide, x, loss=dv.TraceDenoising_ELBO()).mean)


@pytest.mark.parametrize("name", ["mean", "average", "semi-implicit"])
def test_compiled_steps_are_the_ordinary_ones(name):
    pyro.clear_param_store()
    made, x = pair("cuda", torch.float32)
    svi = dv.CompiledSVI(made.model, made.guide, Adam({"lr": 1e-3}), BOUNDS[name]())
    losses = [svi.step(x) for _ in range(200)]
    assert sum(losses[-20:]) < sum(losses[:20])
    made, x = pair("cuda", torch.float32)
    ordinary = BOUNDS[name]()
    pyro.set_rng_seed(0)
    first = [ordinary.loss(made.model, made.guide, x) for _ in range(60)]
    made, x = pair("cuda", torch.float32)
    still = dv.CompiledSVI(made.model, made.guide, Adam({"lr": 0.0}), BOUNDS[name]())
    again = torch.tensor([still.step(x) for _ in range(60)])
    expected = torch.tensor(first)
    error = math.hypot(float(again.std()), float(expected.std())) / math.sqrt(60)
    assert abs(float(again.mean() - expected.mean())) < 5 * error


def test_a_fitted_pair_and_the_estimator_stay_on_their_device():
    made, x = pair("cuda")
    fitted = dv.fit(made.model, made.guide, x, loss=dv.TraceDenoising_ELBO(), epochs=2, progress=False)
    assert fitted.sample(3, seed=0).shape == (3, 40)
    assert fitted.decode(fitted.encode(x)).shape == x.shape
    rows = x.cpu().numpy()
    vae = DenoisingVAE(2, epochs=2, num_samples=50, device="cuda", random_state=0).fit(rows)
    assert next(vae.fitted_.model.parameters()).device.type == "cuda"
    codes, scores = vae.transform(rows), vae.score_samples(rows)
    assert vae.inverse_transform(codes).shape == vae.sample(60).shape == rows.shape
    vae.fitted_.model.cpu()
    vae.fitted_.guide.cpu()
    assert codes == pytest.approx(vae.transform(rows), abs=1e-10)
    assert scores.mean() == pytest.approx(vae.score_samples(rows).mean(), abs=1.0)
