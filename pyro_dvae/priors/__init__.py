"""Priors over the latent of a datum: ``nn.Module``s that give a distribution of event shape [d]."""

from pyro_dvae.priors.base import Prior
from pyro_dvae.priors.standard_normal import StandardNormal

__all__ = ["Prior", "StandardNormal"]
