"""Priors of the latent of an observation: ``nn.Module``s that return a distribution of event shape [d]."""

from pyro_dvae.priors.base import Prior, StandardNormal
from pyro_dvae.priors.discrete import (
    BernoulliPrior,
    CategoricalPrior,
    ConcretePrior,
    GumbelSoftmaxPrior,
    SparseBeta,
)
from pyro_dvae.priors.flow import FlowPrior
from pyro_dvae.priors.mixture import GaussianPair, MixturePrior, VampPrior

__all__ = [
    "BernoulliPrior",
    "CategoricalPrior",
    "ConcretePrior",
    "FlowPrior",
    "GaussianPair",
    "GumbelSoftmaxPrior",
    "MixturePrior",
    "Prior",
    "SparseBeta",
    "StandardNormal",
    "VampPrior",
]
