"""Rows that are images [N, C, H, W]: the same values as for flat rows, and networks of the user."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.evaluation import measures
from pyro_dvae.networks import (
    BernoulliDecoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    GaussianEncoder,
    Lifted,
)

SHAPE, D, d = (3, 8, 8), 192, 2
X = torch.bernoulli(torch.full((12, *SHAPE), 0.5), generator=torch.Generator().manual_seed(0))


def flat_networks():
    return GaussianEncoder(D, d, (5,)), BernoulliDecoder(D, d, (5,))


def convolutional():
    sizes = {"image_shape": SHAPE, "kernel_size": 3}
    encoder = ConvolutionalEncoder(D, d, (5,), channels=(2, 4), **sizes)
    return encoder, ConvolutionalDecoder(D, d, (5,), channels=(4, 2), **sizes)


class OwnEncoder(nn.Module):
    """Accepts only [N, C, H, W]."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2 * d))

    def forward(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        return loc, raw.exp()


class OwnDecoder(nn.Module):
    """A distribution over images, with a layer that accepts only one batch dimension."""

    latent_size = d

    def __init__(self):
        super().__init__()
        inner = nn.ConvTranspose2d(4, 3, 3, 2, 1, 1)
        self.net = Lifted(nn.Sequential(nn.Linear(d, 64), nn.Unflatten(1, (4, 4, 4)), inner), 1)

    def forward(self, z):
        return dist.Bernoulli(logits=self.net(z)).to_event(3)


def own():
    return Lifted(OwnEncoder(), 3), OwnDecoder()


NETWORKS = {"flat": flat_networks, "convolutional": convolutional, "own": own}
GUIDES = {
    "full covariance": lambda: dv.FullCovarianceGuide.of_sizes(D, d, (5,), corruption=dv.Masking(0.2)),
    "implicit": lambda: dv.ImplicitGuide.of_sizes(D, d, (5,), corruption=dv.BitFlip(0.2)),
    "mixture": lambda: dv.MixtureGuide.of_sizes(D, d, (5,), corruption=dv.GaussianNoise(0.2)),
}


def made(networks, corruption=None):
    torch.manual_seed(1)
    return dv.DVAE(*NETWORKS[networks](), corruption or dv.SaltAndPepper(0.1))


def losses(pair, data, bound):
    torch.manual_seed(2)
    value = bound.loss_and_grads(pair.model, pair.guide, data)
    return value, [parameter.grad.clone() for parameter in pair.parameters() if parameter.grad is not None]


BOUNDS = {
    "one draw": lambda: dv.TraceDenoising_ELBO(),
    "several": lambda: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3),
    "weighted": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3),
    "closed form": lambda: dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2),
}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("networks", ["flat", "convolutional"])
def test_bounds_of_images_equal_those_of_flat_rows(networks, bound):
    flat, flat_gradients = losses(made(networks), X.flatten(1), bound())
    images, gradients = losses(made(networks), X, bound())
    assert images == flat
    assert len(gradients) == len(flat_gradients) > 0
    assert all(map(torch.equal, gradients, flat_gradients))


CORRUPTIONS = {
    "none": dv.NoCorruption,
    "a rate for each element": lambda: dv.SaltAndPepper(dv.corruptions.mean_image_rate(X, 0.1)),
    "a rate for each channel": lambda: dv.Masking(torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1)),
    "Gaussian": lambda: dv.GaussianNoise(0.1, learnable=True),
    "relaxed": lambda: dv.BitFlip(0.1, learnable=True, temperature=0.5),
    "of a network": lambda: dv.NetworkCorruption(Lifted(nn.Conv2d(3, 3, 3, padding=1), 3), "gaussian"),
}


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corruptions_keep_the_shape_of_images(corruption, networks):
    pair = made(networks, corruption())
    with pyro.poutine.trace() as traced:
        pair.guide(X)
    assert traced.trace.nodes["x_tilde"]["value"].shape == X.shape
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2)
    value, gradients = losses(pair, X, bound)
    assert torch.isfinite(torch.tensor(value))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    learned = [name for name, _ in pair.guide.corruption.named_parameters()]
    assert all(pair.guide.corruption.get_parameter(name).grad is not None for name in learned)


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_other_guides_and_models_take_images(guide):
    found = []
    for data in (X.flatten(1), X):
        pyro.clear_param_store()
        torch.manual_seed(1)
        made_guide = guide()
        bayes = dv.FullBayes(BernoulliDecoder(D, d, (5,)), made_guide, len(X))
        prior = dv.VampPrior(dv.GaussianGuide.of_sizes(D, d, (5,)), data[:3])
        model = dv.LatentVariableModel(bayes.mean_decoder(), prior)
        semi = dv.TraceSemiImplicit_ELBO() if made_guide.semi_implicit else dv.TraceDenoising_ELBO()
        torch.manual_seed(2)
        found.append(
            (
                semi.loss(model, made_guide, data),
                dv.TraceDenoising_ELBO().loss(bayes.model, bayes.guide, data),
            )
        )
    assert found[0] == found[1]


def test_chains_and_draw_take_images():
    found = []
    for data in (X.flatten(1), X):
        torch.manual_seed(1)
        chain = dv.ChainModel.of_sizes(D, d, (5,)), dv.ChainGuide.of_sizes(D, d, (5,))
        draw = dv.DRAW(image_shape=(8, 24), steps=2, hidden_size=3, latent_size=d, corruption=dv.BitFlip(0.1))
        torch.manual_seed(2)
        bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2)
        found.append((bound.loss(*chain, data), bound.loss(draw.model, draw.guide, data)))
    assert found[0] == found[1]


FEW = {"max_plate_nesting": 1, "seed": 0}
ANNEALED = FEW | {"num_steps": 2, "num_chains": 2, "leapfrog_steps": 1}
DOORS = {
    "log_likelihood": lambda *pair: (
        dv.log_likelihood(*pair, num_samples=20, progress=False, compile=False, **FEW).log_likelihood
    ),
    "annealed": lambda *pair: dv.annealed_log_likelihood(*pair, **ANNEALED).log_likelihood,
    "bidirectional": lambda *pair: dv.bidirectional(*pair, num_data=2, **ANNEALED).forward.log_likelihood,
    "evaluate_bound": lambda *pair: dv.evaluate_bound(*pair, loss=dv.TraceDenoising_ELBO(), seed=0).per_datum,
    "bounds_report": lambda *pair: (
        dv.bounds_report(
            *pair,
            num_mixture=(1,),
            num_particles=(1, 2),
            num_corruptions=2,
            num_samples=20,
            **FEW,
        )
        .entries[0]
        .estimate.per_datum
    ),
    "reconstruction_error": lambda *pair: (
        measures.reconstruction_error(*pair, seed=0, batch_size=5).from_samples.squared.per_datum
    ),
    "active_units": lambda *pair: measures.active_units(*pair, batch_size=5).activity["z"],
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("networks", NETWORKS)
def test_front_doors_take_images(networks, door):
    pair = made(networks)
    images = torch.as_tensor(door(pair.model, pair.guide, X))
    assert bool(torch.isfinite(images).all())
    if networks != "own":
        flat = torch.as_tensor(door(pair.model, pair.guide, X.flatten(1)))
        torch.testing.assert_close(images, flat)


STEPS = [False, True, pytest.param("kernels", marks=pytest.mark.slow)]


@pytest.mark.parametrize("steps", STEPS, ids=["ordinary", "recorded", "compiled"])
@pytest.mark.parametrize("networks", NETWORKS)
def test_training_takes_images(networks, steps, request):
    if steps is True:  # the recording alone: a compiler takes minutes
        request.getfixturevalue("interpreted")
    found = {}
    for name, data in {"images": X[:10], "array": X[:10].numpy(), "flat": X[:10].flatten(1)}.items():
        if (networks, name) == ("own", "flat") or (steps and name == "array"):
            continue
        pyro.clear_param_store()
        pair = made(networks)
        bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2)
        fitted = dv.fit(
            pair.model, pair.guide, data, loss=bound, validation=None if steps else data, epochs=2,
            batch_size=5, seed=3, progress=False, compile=bool(steps),
        )  # fmt: skip
        found[name] = [*fitted.history.train_bound, *fitted.history.validation_bound]
    assert None not in found["images"][:2]
    for name in found:
        assert found[name] == found["images"]


def test_encoding_and_decoding_images():
    pair = made("convolutional")
    for ours, flat in zip(pair.encode(X), pair.encode(X.flatten(1)), strict=True):
        assert torch.equal(ours, flat)
    assert pair.encode(X[0])[0].shape == (d,)
    assert pair.encode(X.reshape(2, 6, *SHAPE))[1].shape == (2, 6, d)
    assert pair.decode(torch.zeros(4, d)).shape == (4, D)


def test_an_encoder_of_grey_images_takes_the_shape_that_it_was_given():
    square, given, channel = (
        ConvolutionalEncoder(64, d, (3,), image_shape=shape) for shape in (None, (8, 8), (1, 8, 8))
    )
    image = torch.rand(1, 8, 8)
    assert square(image)[0].shape == given(image)[0].shape == (1, d)
    assert channel(image)[0].shape == (d,)
    row = ConvolutionalEncoder(8, d, (3,), image_shape=(1, 8))
    assert row(torch.rand(1, 8))[0].shape == (1, d)  # flat rows come first
