"""Full variational Bayes: the weights of the generative network as latents of the whole data set."""

from pyro_dvae.bayes.guide import FullBayesGuide
from pyro_dvae.bayes.model import FullBayesModel
from pyro_dvae.bayes.pair import FullBayes
from pyro_dvae.bayes.predictive import PredictiveModel
from pyro_dvae.bayes.weights import GaussianWeights

__all__ = ["FullBayes", "FullBayesGuide", "FullBayesModel", "GaussianWeights", "PredictiveModel"]
