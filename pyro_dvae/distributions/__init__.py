"""What priors and guides share: distributions that neither PyTorch nor Pyro has in a safe form."""

from pyro_dvae.distributions.flattened import Flattened
from pyro_dvae.distributions.logistic import Logistic
from pyro_dvae.distributions.logit_beta import LogitBeta
from pyro_dvae.distributions.mixture import Mixture
from pyro_dvae.distributions.one_hot import OneHot
from pyro_dvae.distributions.temperature import Temperature

__all__ = ["Flattened", "Logistic", "LogitBeta", "Mixture", "OneHot", "Temperature"]
