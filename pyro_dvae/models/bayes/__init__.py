"""Full variational Bayes: the weights of the generative network as latents of the whole data set."""

from pyro_dvae.models.bayes.full_bayes import FullBayes, FullBayesGuide, FullBayesModel, PredictiveModel
from pyro_dvae.models.bayes.local import LocallyReparameterised
from pyro_dvae.models.bayes.weight_priors import NormalWeight, ScaleMixture, StudentWeight, WeightPrior
from pyro_dvae.models.bayes.weights import GaussianWeights

__all__ = [
    "FullBayes",
    "FullBayesGuide",
    "FullBayesModel",
    "GaussianWeights",
    "LocallyReparameterised",
    "NormalWeight",
    "PredictiveModel",
    "ScaleMixture",
    "StudentWeight",
    "WeightPrior",
]
