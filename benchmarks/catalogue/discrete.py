"""Discrete latents and their relaxations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import pyro_dvae as dv
from catalogue.measures import bits_of, bits_of_logits, divergence
from catalogue.system import BOUNDS, Pair, Setting, System
from pyro_dvae import guides, priors
from pyro_dvae.models import LatentVariableModel
from pyro_dvae.networks import mlp

GROUP = "Discrete latents"
VIMCO: dict[str, Any] = {
    "trained_by": "importance-weighted, K = 5, VIMCO",
    "bound": BOUNDS["importance-weighted"],
}


def latents(
    guide: Any, prior: Any, guide_options: dict[str, Any] | None = None, **options: Any
) -> Callable[[Setting], Pair]:
    """Return a builder of a guide and its prior."""

    def build(setting: Setting) -> Pair:
        model = LatentVariableModel(setting.decoder(), prior(setting.latent_size, **options))
        return Pair(model, setting.guide(guide, **(guide_options or {})))

    return build


def nvil(setting: Setting) -> dv.TraceDenoising_ELBO:
    """Return the denoising bound with a learned baseline of the clean row."""
    width = setting.encoder_sizes[-1]
    network = nn.Sequential(mlp([setting.data_size, width], "tanh"), nn.Linear(width, 1))
    return dv.TraceDenoising_ELBO(baseline=network, max_plate_nesting=1)


def categorical(guide: Any, prior: Any) -> Callable[[Setting], Pair]:
    """Return a builder of variables of five categories each."""
    return latents(guide, prior, {"categories": 5}, categories=5)


DISCRETE = [
    System(
        "bernoulli-nvil",
        GROUP,
        "Bernoulli latents, NVIL with the denoising criterion",
        "Mnih and Gregor 2014",
        "`BernoulliGuide`, `BernoulliPrior`",
        latents(guides.BernoulliGuide, priors.BernoulliPrior),
        trained_by="denoising, learned baseline",
        bound=nvil,
        measures=(bits_of, divergence),
    ),
    System(
        "bernoulli-vimco",
        GROUP,
        "Bernoulli latents, VIMCO",
        "Mnih and Rezende 2016",
        "`BernoulliGuide`, `BernoulliPrior`",
        latents(guides.BernoulliGuide, priors.BernoulliPrior),
        measures=(bits_of, divergence),
        **VIMCO,
    ),
    System(
        "bernoulli-concrete",
        GROUP,
        "relaxed Bernoulli latents (binary Concrete)",
        "Maddison et al. 2017",
        "`ConcreteGuide`, `ConcretePrior`",
        latents(guides.ConcreteGuide, priors.ConcretePrior),
        measures=(bits_of_logits, divergence),
    ),
    System(
        "categorical-vimco",
        GROUP,
        "ten categorical latents of five values, VIMCO",
        "Mnih and Rezende 2016",
        "`CategoricalGuide`, `CategoricalPrior`",
        categorical(guides.CategoricalGuide, priors.CategoricalPrior),
        measures=(divergence,),
        **VIMCO,
    ),
    System(
        "categorical-gumbel-softmax",
        GROUP,
        "relaxed categorical latents (Gumbel-softmax)",
        "Jang et al. 2017; Maddison et al. 2017",
        "`GumbelSoftmaxGuide`, `GumbelSoftmaxPrior`",
        categorical(guides.GumbelSoftmaxGuide, priors.GumbelSoftmaxPrior),
        measures=(divergence,),
    ),
]
