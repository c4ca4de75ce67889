"""log p(x) by annealed importance sampling, and its bidirectional check on simulated data."""

from pyro_dvae.evaluation.annealing.bidirectional import bidirectional
from pyro_dvae.evaluation.annealing.likelihood import annealed_log_likelihood
from pyro_dvae.evaluation.annealing.records import AnnealedLikelihood, BidirectionalReport
from pyro_dvae.evaluation.annealing.settings import AnnealingSettings

__all__ = [
    "AnnealedLikelihood",
    "AnnealingSettings",
    "BidirectionalReport",
    "annealed_log_likelihood",
    "bidirectional",
]
