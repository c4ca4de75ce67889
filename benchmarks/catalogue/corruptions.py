"""Corruptions of the encoder's input, and the paper's comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro_dvae as dv
from catalogue.counts import DIGITS, counted
from catalogue.system import Setting, System, dvae, frey_noise
from pyro_dvae.corruptions import mean_image_rate
from pyro_dvae.networks import GaussianDecoder, PoissonDecoder

GROUP = "Corruptions"
Noise = Callable[[Setting], dv.Corruption]


def noise(
    name: str, title: str, source: str, members: str, make: Noise, binarisation: str = "static"
) -> System:
    """Return the system of the usual networks with this corruption."""
    return System(
        f"corruption-{name}",
        GROUP,
        title,
        source,
        members,
        lambda setting: dvae(setting, corruption=make(setting)),
        binarisation=binarisation,
    )


def frey(setting: Setting) -> Any:
    return dvae(setting, decoder=setting.decoder(GaussianDecoder, scale="per-pixel"), corruption=frey_noise())


CORRUPTIONS = [
    noise(
        "salt-and-pepper",
        "salt and pepper, 5 %, half of it salt",
        "Im et al. 2017, as in the text of the paper",
        "`SaltAndPepper`",
        lambda setting: dv.SaltAndPepper(0.05),
    ),
    noise(
        "mean-image",
        "salt and pepper in proportion to the mean image, 5 % on average",
        "a variant",
        "`SaltAndPepper`, `mean_image_rate`",
        lambda setting: dv.SaltAndPepper(mean_image_rate(setting.train, 0.05)),
    ),
    noise(
        "scheduled",
        "salt and pepper, falling from 20 % to 1 %",
        "Geras and Sutton 2015",
        "`SaltAndPepper`, `LinearSchedule`",
        lambda setting: dv.SaltAndPepper(dv.LinearSchedule(0.2, 0.01, 4), salt="rate"),
    ),
    noise(
        "bit-flip",
        "5 % of the bits flipped",
        "a variant",
        "`BitFlip`",
        lambda setting: dv.BitFlip(0.05),
    ),
    noise(
        "masking",
        "5 % of the pixels masked",
        "Vincent et al. 2010",
        "`Masking`",
        lambda setting: dv.Masking(0.05),
    ),
    noise(
        "swap",
        "5 % of the pixels swapped with those of another image",
        "Yoon et al. 2020",
        "`SwapNoise`",
        lambda setting: dv.SwapNoise(0.05, setting.train),
    ),
    noise(
        "augmentation",
        "none; binary pixels drawn anew in every epoch (data augmentation)",
        "Im et al. 2017, as a comparison",
        '`binarisation("dynamic")`',
        lambda setting: dv.NoCorruption(),
        binarisation="dynamic",
    ),
    System(
        "corruption-gaussian",
        GROUP,
        "Gaussian noise of scale 0.05",
        "Im et al. 2017, Table 2",
        "`GaussianNoise`",
        frey,
        dataset="frey",
        binarisation="none",
        same_as="decoder-gaussian-per-pixel",
    ),
    System(
        "corruption-multiplicative",
        GROUP,
        "Gaussian noise of 10 % of the value",
        "Srivastava et al. 2014",
        "`MultiplicativeNoise`",
        lambda setting: dvae(
            setting,
            decoder=setting.decoder(GaussianDecoder, scale="per-pixel"),
            corruption=dv.MultiplicativeNoise(0.1),
        ),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "corruption-thinning",
        GROUP,
        "binomial thinning of counts, 20 %",
        "Batson et al. 2019, as a split; here as noise",
        "`BinomialThinning`",
        counted(PoissonDecoder),
        **DIGITS,
        same_as="counts-poisson",
    ),
]
