"""Distributions of priors and guides that neither PyTorch nor Pyro provides in a safe form."""

from pyro_dvae.distributions.flattened import Flattened, OneHot
from pyro_dvae.distributions.logistic import Logistic, LogitBeta
from pyro_dvae.distributions.mixture import Mixture
from pyro_dvae.levels import Temperature

__all__ = ["Flattened", "Logistic", "LogitBeta", "Mixture", "OneHot", "Temperature"]
