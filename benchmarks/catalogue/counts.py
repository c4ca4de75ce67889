"""Likelihoods of counts and levels: the 8 × 8 digits, where each pixel counts ink from 0 to 16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro_dvae as dv
from catalogue.system import Pair, Setting, System, dvae
from pyro_dvae.networks import (
    CountEncoder,
    DirichletMultinomialDecoder,
    MultinomialDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
    TableDecoder,
    TableEncoder,
)

GROUP = "Counts and levels"
DIGITS: dict[str, Any] = {"dataset": "digits", "binarisation": "none", "times": 16.0}


def counted(kind: Callable[..., Any]) -> Callable[[Setting], Pair]:
    """Return a builder of a system of counts, with thinning before the encoder and this decoder."""

    def build(setting: Setting) -> Pair:
        encoder = CountEncoder(setting.data_size, setting.latent_size, setting.encoder_sizes)
        corruption = dv.BinomialThinning(0.2)
        return dvae(setting, encoder=encoder, decoder=setting.decoder(kind), corruption=corruption)

    return build


def levels(setting: Setting) -> Pair:
    columns = [("ordinal", 17)] * setting.data_size
    encoder = TableEncoder(columns, setting.latent_size, setting.encoder_sizes)
    decoder = TableDecoder(columns, setting.latent_size, setting.decoder_sizes)
    return dvae(setting, encoder=encoder, decoder=decoder, corruption=dv.SwapNoise(0.1, setting.train))


def system(name: str, title: str, source: str, members: str, kind: Callable[..., Any]) -> System:
    return System(f"counts-{name}", GROUP, title, source, members, counted(kind), **DIGITS)


COUNTS = [
    system(
        "poisson", "Poisson, the row's total known", "Lopez et al. 2018", "`PoissonDecoder`", PoissonDecoder
    ),
    system(
        "poisson-latent-total",
        "Poisson, the total explained by the latents",
        "Lopez et al. 2018",
        '`PoissonDecoder(library="latent")`',
        partial(PoissonDecoder, library="latent"),
    ),
    system(
        "negative-binomial",
        "negative binomial, the row's total known",
        "Lopez et al. 2018",
        "`NegativeBinomialDecoder`",
        NegativeBinomialDecoder,
    ),
    system(
        "zero-inflated",
        "zero-inflated negative binomial, the row's total known",
        "Lopez et al. 2018",
        "`NegativeBinomialDecoder(zero_inflated=True)`",
        partial(NegativeBinomialDecoder, zero_inflated=True),
    ),
    system(
        "multinomial",
        "multinomial given the row's total",
        "Liang et al. 2018",
        "`MultinomialDecoder`",
        MultinomialDecoder,
    ),
    system(
        "dirichlet-multinomial",
        "Dirichlet-multinomial given the row's total",
        "a variant",
        "`DirichletMultinomialDecoder`",
        DirichletMultinomialDecoder,
    ),
    System(
        "levels-ordinal",
        GROUP,
        "17 ordered levels by cumulative logits, cells swapped",
        "McCullagh 1980",
        "`TableDecoder`, `TableEncoder`, `SwapNoise`",
        levels,
        **DIGITS,
    ),
]
