"""Generative networks as Pyro models, and ready-made pairs of model and guide."""

from pyro_dvae.models.autoencoder import Autoencoder, CodeGuide, NoPrior
from pyro_dvae.models.bayes import FullBayes
from pyro_dvae.models.chain import ChainModel
from pyro_dvae.models.draw import DRAW
from pyro_dvae.models.dvae import DVAE, LatentVariableModel
from pyro_dvae.models.tables import FittedTable, fit_table

__all__ = [
    "DRAW",
    "DVAE",
    "Autoencoder",
    "ChainModel",
    "CodeGuide",
    "FittedTable",
    "FullBayes",
    "LatentVariableModel",
    "NoPrior",
    "fit_table",
]
