"""Recognition networks."""

from __future__ import annotations

from catalogue.measures import activity
from catalogue.system import Pair, Setting, System, dvae
from pyro_dvae.networks import ConvolutionalEncoder, GaussianEncoder, GRUEncoder

GROUP = "Encoders"


def activated(name: str, source: str, same_as: str | None = None) -> System:
    """Return the system of one hidden layer with this activation."""
    return System(
        f"encoder-{name}",
        GROUP,
        f"MLP, 1 hidden layer, {name}",
        source,
        "`GaussianEncoder`",
        lambda setting: dvae(setting, encoder=setting.encoder(name)),
        same_as=same_as,
    )


def deep(layers: int, source: str) -> System:
    """Return the system of several hidden layers."""

    def build(setting: Setting) -> Pair:
        sizes = setting.encoder_sizes * layers
        return dvae(setting, encoder=GaussianEncoder(setting.data_size, setting.latent_size, sizes))

    title = f"MLP, {layers} hidden layers, softplus"
    return System(
        f"encoder-{layers}-layers", GROUP, title, source, "`GaussianEncoder`", build, measures=(activity,)
    )


def convolutional(setting: Setting) -> Pair:
    encoder = ConvolutionalEncoder(setting.data_size, setting.latent_size, setting.encoder_sizes)
    return dvae(setting, encoder=encoder)


def recurrent(setting: Setting) -> Pair:
    encoder = GRUEncoder(setting.data_size, setting.latent_size, setting.encoder_sizes[0], steps=5)
    return dvae(setting, encoder=encoder)


ENCODERS = [
    activated("softplus", "Im et al. 2017, Table 1, 1 layer", same_as="guide-denoising"),
    activated("tanh", "Kingma and Welling 2014, appendix C"),
    activated("relu", "a variant"),
    activated("sigmoid", "a variant"),
    deep(2, "Im et al. 2017, Table 1, 2 layers"),
    deep(3, "a variant"),
    deep(4, "a variant"),
    System(
        "encoder-convolutional",
        GROUP,
        "two convolutions of stride 2, then an MLP",
        "Salimans, Kingma and Welling 2015",
        "`ConvolutionalEncoder`",
        convolutional,
    ),
    System(
        "encoder-gru",
        GROUP,
        "GRU, one layer, five steps over the same input",
        "Im et al. 2017, Table 3",
        "`GRUEncoder`",
        recurrent,
    ),
]
