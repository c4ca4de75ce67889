"""Autoencoders against the closed forms of linear ones, and as systems of a comparison."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

import pyro_dvae as dv
from pyro_dvae import networks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.models import Autoencoder, CodeGuide

N, D, d = 40, 5, 2
SIGMA = 0.8


def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.7, 0.3])
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    return (x - x.mean(0)) @ rotation


class Linear(nn.Module):
    """p(x|z) = N(Vz, I): minus its log-density is half the squared error, and a constant."""

    def __init__(self):
        super().__init__()
        self.latent_size = d
        self.layer = nn.Linear(d, D, bias=False).double()

    def forward(self, z):
        return dist.Normal(self.layer(z), 1.0).to_event(1)


def linear_autoencoder(corruption=None):
    torch.manual_seed(0)
    return Autoencoder(nn.Linear(D, d, bias=False).double(), Linear(), corruption)


def trained(system, bound, x):
    """Train without noise to convergence; return the mean squared error of the training objective."""
    optimizer = torch.optim.LBFGS(
        system.parameters(),
        max_iter=2000,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )
    elbo = bound(system.model, system.guide)

    def closure():
        optimizer.zero_grad()
        loss = elbo(x) / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return 2 * (float(closure().detach()) - D / 2 * math.log(2 * math.pi))


def test_a_linear_autoencoder_finds_the_principal_components():
    x, system = data(), linear_autoencoder()
    eigenvalues = torch.linalg.eigvalsh(x.T @ x / N)
    smallest = float(eigenvalues[: D - d].sum())
    assert trained(system, dv.TraceDenoising_ELBO(), x) == pytest.approx(smallest, rel=1e-8)
    found = dv.evaluation.reconstruction_error(system.model, system.guide, x)
    assert found.from_mean.squared.mean == pytest.approx(smallest / D, rel=1e-8)
    assert found.from_samples.squared.mean == pytest.approx(smallest / D, rel=1e-8)


class AllDirections(Corruption):
    """2D corruptions x ± σ √D e_i, one for each of M = 2D draws: mean x and covariance σ²I exactly."""

    def distribution(self, x):
        points = SIGMA * math.sqrt(D) * torch.eye(D, dtype=x.dtype)
        shifts = torch.cat([points, -points]).reshape(2 * D, 1, D)
        return dist.Delta(x + shifts)


def test_a_linear_denoising_autoencoder_shrinks_the_principal_components():
    """min ‖x − BA(x + n)‖²: BA = Σ_i λ_i/(λ_i + σ²) u_i u_iᵀ of the d largest; error tr C − Σ λ²/(λ + σ²)."""
    x, system = data(), linear_autoencoder(AllDirections())
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / N)
    kept, directions = eigenvalues[D - d :], vectors[:, D - d :]
    error = trained(system, dv.TraceDenoising_ELBO(num_corruptions=2 * D, max_plate_nesting=1), x)
    assert error == pytest.approx(float(eigenvalues.sum() - (kept**2 / (kept + SIGMA**2)).sum()), rel=1e-8)
    product = system.model.decoder.layer.weight @ system.guide.encoder.weight
    shrunk = directions @ torch.diag(kept / (kept + SIGMA**2)) @ directions.T
    torch.testing.assert_close(product.detach(), shrunk, rtol=1e-4, atol=1e-4)


def test_gaussian_noise_gives_the_same_objective():
    x, fixed = data(), linear_autoencoder(AllDirections())
    exact = trained(fixed, dv.TraceDenoising_ELBO(num_corruptions=2 * D, max_plate_nesting=1), x)
    noisy = Autoencoder(
        fixed.guide.encoder,
        fixed.model.decoder,
        dv.GaussianNoise(torch.tensor(SIGMA, dtype=torch.float64)),
    )
    bound = dv.TraceDenoising_ELBO(num_corruptions=20, max_plate_nesting=1)
    losses = torch.tensor([bound.loss(noisy.model, noisy.guide, x) / N for _ in range(100)])
    errors = 2 * (losses.double() - D / 2 * math.log(2 * math.pi))
    assert abs(float(errors.mean()) - exact) < 5 * float(errors.std()) / 10


def images(count=30, size=16):
    return torch.rand(count, size, generator=torch.Generator().manual_seed(5)).round()


@pytest.mark.parametrize("corruption", [None, dv.SaltAndPepper(0.2)], ids=["plain", "denoising"])
@pytest.mark.parametrize("kind", [dv.TraceDenoising_ELBO, dv.TraceMeanFieldDenoising_ELBO])
def test_the_loss_is_the_cross_entropy_of_the_clean_target(kind, corruption):
    x, system = images(), Autoencoder.of_sizes(16, 3, (8,), corruption=corruption)
    bound = kind(num_corruptions=4, max_plate_nesting=1)
    pyro.set_rng_seed(1)
    loss = bound.loss_and_grads(system.model, system.guide, x)
    grads = {name: value.grad.clone() for name, value in system.named_parameters()}
    pyro.set_rng_seed(1)
    trace = bound.draws(system.model, system.guide, (x,), {}).guide_trace
    x_tilde = trace.nodes["x_tilde"]["value"]
    assert torch.equal(x_tilde, x.expand_as(x_tilde)) == (corruption is None)
    logits = system.model.decoder(system.guide.encoder(x_tilde)[0]).base_dist.logits
    target = x.expand_as(logits)
    by_hand = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    by_hand = by_hand.sum((-1, -2)).mean()
    assert loss == pytest.approx(float(by_hand.detach()), rel=1e-5)
    system.zero_grad()
    by_hand.backward()
    for name, value in system.named_parameters():
        torch.testing.assert_close(grads[name], value.grad, rtol=1e-4, atol=1e-4)
        assert bool((value.grad != 0).any()), name


@pytest.mark.parametrize("local", [False, True])
def test_it_trains_as_the_other_systems_do(local):
    x = images()
    with pyro.settings.context(module_local_params=local):
        system = Autoencoder.of_sizes(16, 3, (8,), corruption=dv.SaltAndPepper(0.1))
        svi = SVI(system.model, system.guide, pyro.optim.Adam({"lr": 0.02}), dv.TraceDenoising_ELBO())
        losses = [svi.step(x) for _ in range(80)]
        assert losses[-1] < 0.8 * losses[0]
        pyro.clear_param_store()
        bound = dv.TraceDenoising_ELBO()
        history = dv.fit(
            system.model, system.guide, x, loss=bound, epochs=2, batch_size=10, progress=False
        ).history
        assert history.train_bound[-1] > -losses[0] / len(x)


@pytest.mark.parametrize("name", [n for n in networks.__all__ if n.endswith("Encoder")])
def test_every_encoder_gives_the_code(name):
    kind = getattr(networks, name)
    encoder = kind(["real"] * 16, 3) if name == "TableEncoder" else kind(data_size=16, latent_size=3)
    guide, x = CodeGuide(encoder), images()
    torch.testing.assert_close(guide(x), encoder(x)[0])
    assert guide.posterior(x).log_prob(encoder(x)[0]).abs().max() == 0


def test_encode_decode_and_precision():
    system, x = Autoencoder.of_sizes(16, 3, (8,)).double(), images().double()
    code = system.encode(x.expand(2, 30, 16))
    assert code.shape == (2, 30, 3)
    mean = system.decode(code)
    assert mean.shape == (2, 30, 16)
    assert mean.dtype == torch.float64
    assert bool(((mean > 0) & (mean < 1)).all())


def test_the_mean_code_of_a_vae_is_the_code_of_an_autoencoder():
    x = images()
    vae = dv.DVAE(networks.GaussianEncoder(16, 3, (8,)), networks.BernoulliDecoder(16, 3, (8,)))
    system = Autoencoder(vae.guide.encoder, vae.model.decoder)
    first, second = (
        dv.evaluation.reconstruction_error(each.model, each.guide, x, num_samples=3, seed=1)
        for each in (system, vae)
    )
    torch.testing.assert_close(first.from_mean.squared.per_datum, second.from_mean.squared.per_datum)
    torch.testing.assert_close(first.from_samples.squared.per_datum, first.from_mean.squared.per_datum)
    assert second.from_samples.squared.mean > second.from_mean.squared.mean
    by_hand = (x - vae.decode(vae.encode(x)[0])).double().square().mean()
    assert second.from_mean.squared.mean == pytest.approx(float(by_hand), rel=1e-5)


def test_what_needs_a_density_refuses_it():
    system = Autoencoder.of_sizes(16, 3, (8,))
    with pytest.raises(dv.InputError, match=r"'z' is a point mass .* likelihood needs"):
        dv.log_likelihood(system.model, system.guide, images(), num_samples=10)
    with pytest.raises(NotImplementedError):
        system.model.prior(images()).sample()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Autoencoder(nn.Linear(4, 2), nn.Linear(2, 4)), "decoder.latent_size"),
        (lambda: Autoencoder(nn.Linear(4, 2), "decoder"), "decoder: expected"),
        (lambda: Autoencoder("encoder", networks.BernoulliDecoder(4, 2)), "encoder: expected"),
        (lambda: Autoencoder(nn.Linear(4, 2), networks.BernoulliDecoder(4, 2), 0.1), "corruption: expected"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(dv.InputError, match=message):
        call()
