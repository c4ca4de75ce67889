"""Priors of real latents."""

from __future__ import annotations

from collections.abc import Callable

from catalogue.measures import bits_of, bits_of_logits, divergence
from catalogue.system import Pair, Setting, System, dvae
from pyro_dvae import guides, priors
from pyro_dvae.models import LatentVariableModel

GROUP = "Priors"
REPORT = "the report"


def with_prior(kind: Callable[[int], priors.Prior]) -> Callable[[Setting], Pair]:
    """Return a builder of the usual networks with this prior of d latents."""
    return lambda setting: dvae(setting, prior=kind(setting.latent_size))


def vamp(setting: Setting) -> Pair:
    guide = setting.guide(guides.GaussianGuide)
    assert isinstance(guide, guides.GaussianGuide)
    prior = priors.VampPrior(guide, setting.train[:100])
    return Pair(LatentVariableModel(setting.decoder(), prior), guide)


PRIORS = [
    System(
        "prior-standard-normal",
        GROUP,
        "standard normal",
        "Kingma and Welling 2014",
        "`StandardNormal`",
        with_prior(priors.StandardNormal),
        same_as="guide-denoising",
    ),
    System(
        "prior-gaussian-pair",
        GROUP,
        "a pair of Gaussians at 0 and 1, scale 0.2",
        REPORT,
        "`GaussianPair`",
        with_prior(priors.GaussianPair),
        measures=(bits_of, divergence),
    ),
    System(
        "prior-sparse-beta",
        GROUP,
        "sparse Beta(½, ½) of codes in (0, 1)",
        REPORT,
        "`SparseBeta`",
        with_prior(priors.SparseBeta),
        measures=(bits_of_logits,),
    ),
    System(
        "prior-vamp",
        GROUP,
        "VampPrior, 100 pseudo-inputs",
        "Tomczak and Welling 2018",
        "`VampPrior`",
        vamp,
    ),
    System(
        "prior-flow",
        GROUP,
        "RealNVP of eight couplings",
        "Dinh et al. 2017; as prior: Chen et al. 2017",
        "`FlowPrior`",
        with_prior(priors.FlowPrior),
    ),
    System(
        "prior-mixture",
        GROUP,
        "learned mixture of ten Gaussians",
        "Tomczak and Welling 2018, as a comparison",
        "`MixturePrior`",
        with_prior(priors.MixturePrior),
    ),
]
