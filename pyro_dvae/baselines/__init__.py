"""Baselines without a bound: autoencoders with the networks of the other systems."""

from pyro_dvae.baselines.autoencoder import Autoencoder
from pyro_dvae.baselines.guide import CodeGuide
from pyro_dvae.baselines.prior import NoPrior

__all__ = ["Autoencoder", "CodeGuide", "NoPrior"]
