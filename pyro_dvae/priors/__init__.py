"""Priors over the latent of an observation: ``nn.Module``s that give a distribution of event shape [d]."""

from pyro_dvae.priors.base import Prior
from pyro_dvae.priors.discrete import BernoulliPrior, CategoricalPrior
from pyro_dvae.priors.flow import FlowPrior
from pyro_dvae.priors.gaussian import GaussianPair, StandardNormal
from pyro_dvae.priors.mixture import MixturePrior, VampPrior
from pyro_dvae.priors.relaxed import ConcretePrior, GumbelSoftmaxPrior, SparseBeta

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
