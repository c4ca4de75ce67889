"""Held-out log-likelihood by importance sampling."""

from pyro_dvae.evaluation.importance.log_likelihood import log_likelihood
from pyro_dvae.evaluation.importance.proposals import Proposal
from pyro_dvae.evaluation.importance.result import LogLikelihood

__all__ = ["LogLikelihood", "Proposal", "log_likelihood"]
