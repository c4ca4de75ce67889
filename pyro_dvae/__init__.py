"""Denoising variational inference for Pyro."""

from importlib.metadata import version as _version

from pyro_dvae.bounds import TraceDenoising_ELBO, TraceDenoisingIWAE_ELBO
from pyro_dvae.corruptions import (
    BitFlip,
    ConstantSchedule,
    Corruption,
    GaussianNoise,
    LinearSchedule,
    Masking,
    NoCorruption,
    SaltAndPepper,
    StepSchedule,
)
from pyro_dvae.errors import CheckpointError, DataError, DivergenceError, InputError
from pyro_dvae.guides import DenoisingGuide, GaussianGuide
from pyro_dvae.models import DVAE, LatentGaussianModel
from pyro_dvae.sites import clean_input, corrupt

__version__ = _version("pyro-dvae")

__all__ = [
    "DVAE",
    "BitFlip",
    "CheckpointError",
    "ConstantSchedule",
    "Corruption",
    "DataError",
    "DenoisingGuide",
    "DivergenceError",
    "GaussianGuide",
    "GaussianNoise",
    "InputError",
    "LatentGaussianModel",
    "LinearSchedule",
    "Masking",
    "NoCorruption",
    "SaltAndPepper",
    "StepSchedule",
    "TraceDenoisingIWAE_ELBO",
    "TraceDenoising_ELBO",
    "clean_input",
    "corrupt",
]
