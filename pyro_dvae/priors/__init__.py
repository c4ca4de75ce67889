"""Priors over the latent of a datum: ``nn.Module``s that give a distribution of event shape [d]."""

from pyro_dvae.priors.base import Prior
from pyro_dvae.priors.bernoulli import BernoulliPrior
from pyro_dvae.priors.categorical import CategoricalPrior
from pyro_dvae.priors.concrete import ConcretePrior
from pyro_dvae.priors.gaussian_pair import GaussianPair
from pyro_dvae.priors.gumbel_softmax import GumbelSoftmaxPrior
from pyro_dvae.priors.mixture import MixturePrior
from pyro_dvae.priors.sparse_beta import SparseBeta
from pyro_dvae.priors.standard_normal import StandardNormal
from pyro_dvae.priors.vamp import VampPrior

__all__ = [
    "BernoulliPrior",
    "CategoricalPrior",
    "ConcretePrior",
    "GaussianPair",
    "GumbelSoftmaxPrior",
    "MixturePrior",
    "Prior",
    "SparseBeta",
    "StandardNormal",
    "VampPrior",
]
