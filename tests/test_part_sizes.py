"""Parts of the wrong sizes are refused when a pair is made, not at its first run."""

import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import Features
from pyro_dvae.guides.flow import autoregressive_flow, planar_flow
from pyro_dvae.models.draw.draw import DrawGuide
from pyro_dvae.models.draw.networks import decoder_of, encoder_of
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.priors import StandardNormal

D, d = 6, 2


def encoder(data_size=D, latent_size=d):
    return GaussianEncoder(data_size, latent_size, (4,))


def decoder(data_size=D, latent_size=d):
    return BernoulliDecoder(data_size, latent_size, (4,))


def guide(data_size=D, latent_size=d, corruption=None):
    return dv.GaussianGuide(encoder(data_size, latent_size), corruption)


def chain(*sizes, below=d, top=d):
    """A chain of layers from the prior's size ``top`` down to the decoder's."""
    return dv.ChainModel(decoder(latent_size=below), [encoder(*size) for size in sizes], StandardNormal(top))


def draw(encoder_shape, latent_size=2, corruption=None):
    made = encoder_of(encoder_shape, latent_size, 4, cell="gru", size=0)
    return DrawGuide(made, decoder_of((2, 3), 2, 4, steps=2, cell="gru", size=0), corruption)


RATES = torch.full((5,), 0.1)
PAIRS = {"DVAE": dv.DVAE, "Autoencoder": dv.Autoencoder}
WRONG = {
    "ChainModel, decoder": (lambda: chain((3, 4), top=3), "^upper_decoders.0., decoder: .*, got 4 and 2$"),
    "ChainModel, prior": (lambda: chain((3, d), top=4), "^prior, upper_decoders.0.: .*, got 4 and 3$"),
    "ChainModel, layers": (
        lambda: chain((3, d), (5, 4), top=5),
        "^upper_decoders.1., upper_decoders.0.: .*, got 4 and 3$",
    ),
    "ChainModel, one layer": (lambda: chain(top=3), "^prior, decoder: .*, got 3 and 2$"),
    "ChainGuide": (
        lambda: dv.ChainGuide(encoder(), [encoder(3, 2)]),
        "^encoder, upper_encoders.0.: .*, got 2 and 3$",
    ),
    "LatentVariableModel": (
        lambda: dv.LatentVariableModel(decoder(), StandardNormal(3)),
        "^prior: expected latents of size 2, as the decoder takes, got 3$",
    ),
    "FullBayes, data": (
        lambda: dv.FullBayes(decoder(), guide(5), 9),
        "^guide, decoder: .*data_size, got 5 and 6$",
    ),
    "FullBayes, latents": (
        lambda: dv.FullBayes(decoder(), guide(D, 3), 9),
        "^guide, decoder: .*latent_size, got 3 and 2$",
    ),
    "FullBayes, latents of features": (
        lambda: dv.FullBayes(decoder(), dv.MixtureGuide(Features(D, (4,), "tanh"), 4, 3), 9),
        "^guide, decoder: .*latent_size, got 3 and 2$",
    ),
    "FullBayes, corruption": (
        lambda: dv.FullBayes(decoder(), guide(corruption=dv.Masking(RATES)), 9),
        "^corruption: expected rate for rows of 6 elements, got 5 values$",
    ),
    "FullCovarianceGuide": (
        lambda: dv.FullCovarianceGuide(Features(D, (4,), "tanh"), 3, 2),
        "^encoder, feature_size: .*, got 4 and 3$",
    ),
    "MixtureGuide": (
        lambda: dv.MixtureGuide(Features(D, (4,), "tanh"), 3, 2),
        "^encoder, feature_size: .*, got 4 and 3$",
    ),
    "FlowGuide": (
        lambda: dv.FlowGuide(Features(D, (4,), "tanh"), 3, 2, []),
        "^encoder, feature_size: .*, got 4 and 3$",
    ),
    "FlowGuide, planar": (
        lambda: dv.FlowGuide(Features(D, (4,), "tanh"), 4, 2, planar_flow(2, 3, 4)),
        "^guide, flows.0.: .*latent_size, got 2 and 3$",
    ),
    "FlowGuide, autoregressive": (
        lambda: dv.FlowGuide(Features(D, (4,), "tanh"), 4, 2, autoregressive_flow(2, 2, 5)),
        "^guide, flows.0.: .*context_size, got 4 and 5$",
    ),
    "DRAW, images": (lambda: draw((2, 2)), "^encoder, decoder: .*data_size, got 4 and 6$"),
    "DRAW, latents": (lambda: draw((2, 3), 3), "^encoder, decoder: .*latent_size, got 3 and 2$"),
    "DRAW, corruption": (
        lambda: dv.DRAW(image_shape=(2, 3), attention=False, corruption=dv.BitFlip(RATES)),
        "^corruption: expected rate for rows of 6 elements, got 5 values$",
    ),
}
for name, pair in PAIRS.items():
    WRONG |= {
        f"{name}, data": (
            lambda pair=pair: pair(encoder(5), decoder()),
            "^encoder, decoder: .*data_size, got 5 and 6$",
        ),
        f"{name}, latents": (
            lambda pair=pair: pair(encoder(), decoder(D, 3)),
            "^encoder, decoder: .*latent_size, got 2 and 3$",
        ),
        f"{name}, rates": (
            lambda pair=pair: pair(encoder(), decoder(), dv.Masking(RATES)),
            "^corruption: expected rate for rows of 6 elements, got 5 values$",
        ),
        f"{name}, learned scales": (
            lambda pair=pair: pair(encoder(), decoder(), dv.GaussianNoise(RATES, learnable=True)),
            "^corruption: expected scale for rows of 6 elements, got 5 values$",
        ),
        f"{name}, rows to swap with": (
            lambda pair=pair: pair(encoder(), decoder(), dv.SwapNoise(0.1, torch.zeros(3, 4))),
            "^corruption: expected rows for rows of 6 elements, got 4 values$",
        ),
    }


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sizes_are_refused(name):
    make, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        make()


class Foreign(nn.Module):
    """A part that states no size."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(D, d)

    def forward(self, x):
        return self.part(x), torch.ones(d)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dv.DVAE(Foreign(), decoder(), dv.Masking(torch.full((2, 3), 0.1))),  # images of 2 by 3
        lambda: dv.DVAE(encoder(), decoder(), dv.SwapNoise(torch.full((D,), 0.1), torch.zeros(4, 1))),
        lambda: dv.FullBayes(decoder(), dv.ImplicitGuide.of_sizes(D, d, (4,), noise_size=3), 9),
        lambda: dv.ChainGuide(Foreign(), [encoder(3, 2)]),
        lambda: chain((3, 4), (5, 3), below=4, top=5),
        lambda: dv.FlowGuide(Features(D, (4,), "tanh"), 4, 2, autoregressive_flow(2, 2, 4)),
        lambda: draw((2, 3)),
    ],
)
def test_right_sizes_and_unstated_sizes_are_accepted(make):
    assert isinstance(make(), nn.Module)
