"""Generative networks as Pyro models, and the ready-made denoising VAE."""

from pyro_dvae.models.chain import ChainModel
from pyro_dvae.models.dvae import DVAE
from pyro_dvae.models.latent_variable import LatentVariableModel

__all__ = ["DVAE", "ChainModel", "LatentVariableModel"]
