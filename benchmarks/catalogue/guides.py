"""Guides of real latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro_dvae as dv
from catalogue.measures import reconstruction
from catalogue.system import BOUNDS, Pair, Setting, System, dvae, salt
from pyro_dvae import guides
from pyro_dvae.models import ChainModel, LatentVariableModel

GROUP = "Guides"


def guided(kind: Any, **options: Any) -> Callable[[Setting], Pair]:
    """Return a builder of the usual model with this guide."""
    return lambda setting: Pair(LatentVariableModel(setting.decoder()), setting.guide(kind, **options))


def chain(setting: Setting) -> Pair:
    model = ChainModel.of_sizes(setting.data_size, setting.latent_size, setting.decoder_sizes, num_layers=2)
    return Pair(model, setting.guide(guides.ChainGuide, num_layers=2))


def automatic(setting: Setting) -> Pair:
    model = LatentVariableModel(setting.decoder())
    return Pair(model, dv.AutoEncoderGuide(model, corruption=salt(), hidden_sizes=setting.encoder_sizes))


GUIDES = [
    System(
        "guide-gaussian",
        GROUP,
        "diagonal Gaussian, no corruption: the VAE",
        "Kingma and Welling 2014",
        "`GaussianGuide`",
        lambda setting: dvae(setting, corruption=dv.NoCorruption()),
        measures=(reconstruction,),
    ),
    System(
        "guide-denoising",
        GROUP,
        "the same with a corruption: the DVAE",
        "Im et al. 2017, eq. 8 and 11",
        "`GaussianGuide(corruption=...)`, `DenoisingGuide`",
        guided(guides.GaussianGuide),
        measures=(reconstruction,),
    ),
    System(
        "guide-automatic",
        GROUP,
        "a denoising guide made from the model",
        "a variant",
        "`AutoEncoderGuide`",
        automatic,
    ),
    System(
        "guide-chain",
        GROUP,
        "chain of two stochastic layers",
        "Im et al. 2017, Theorem 1",
        "`ChainGuide`, `ChainModel`",
        chain,
        # The prior of z1 depends on z2, which the guide draws later, so there is no closed form.
        applies=("denoising", "importance-weighted", "semi-implicit"),
    ),
    System(
        "guide-implicit",
        GROUP,
        "implicit, z = g(x̃, ε)",
        "Yin and Zhou 2018; the report's non-parametric posterior",
        "`ImplicitGuide`",
        guided(guides.ImplicitGuide),
        trained_by="semi-implicit, J = 10",
        bound=BOUNDS["semi-implicit"],
    ),
    System(
        "guide-full-covariance",
        GROUP,
        "full-covariance Gaussian",
        "Kingma and Welling 2019, section 2.5.1",
        "`FullCovarianceGuide`",
        guided(guides.FullCovarianceGuide),
    ),
    System(
        "guide-planar-flow",
        GROUP,
        "four planar layers after the Gaussian",
        "Rezende and Mohamed 2015",
        '`FlowGuide(flow="planar")`',
        guided(guides.FlowGuide, flow="planar", flows=4),
    ),
    System(
        "guide-iaf",
        GROUP,
        "two inverse autoregressive layers after the Gaussian",
        "Kingma et al. 2016",
        '`FlowGuide(flow="iaf")`',
        guided(guides.FlowGuide, flow="iaf", flows=2),
    ),
    System(
        "guide-mixture",
        GROUP,
        "mixture of five Gaussians",
        "Graves 2016",
        "`MixtureGuide`",
        guided(guides.MixtureGuide, components=5),
    ),
]
