"""Denoising variational inference for Pyro."""

from importlib.metadata import version as _version

from pyro_dvae.bounds import (
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceMeanFieldDenoising_ELBO,
    TraceSemiImplicit_ELBO,
)
from pyro_dvae.corruptions import (
    BitFlip,
    ConstantSchedule,
    Corruption,
    GaussianNoise,
    LinearSchedule,
    Masking,
    NetworkCorruption,
    NoCorruption,
    SaltAndPepper,
    StepSchedule,
)
from pyro_dvae.datasets import Dataset, load_dataset
from pyro_dvae.errors import CheckpointError, DataError, DivergenceError, InputError
from pyro_dvae.evaluation import (
    BoundsReport,
    Estimate,
    LogLikelihood,
    annealed_log_likelihood,
    bidirectional,
    bounds_report,
    evaluate_bound,
    log_likelihood,
)
from pyro_dvae.guides import DenoisingGuide, GaussianGuide
from pyro_dvae.models import DVAE, LatentGaussianModel
from pyro_dvae.sites import clean_input, corrupt
from pyro_dvae.training import History, Trainer, fit

__version__ = _version("pyro-dvae")

__all__ = [
    "DVAE",
    "BitFlip",
    "BoundsReport",
    "CheckpointError",
    "ConstantSchedule",
    "Corruption",
    "DataError",
    "Dataset",
    "DenoisingGuide",
    "DivergenceError",
    "Estimate",
    "GaussianGuide",
    "GaussianNoise",
    "History",
    "InputError",
    "LatentGaussianModel",
    "LinearSchedule",
    "LogLikelihood",
    "Masking",
    "NetworkCorruption",
    "NoCorruption",
    "SaltAndPepper",
    "StepSchedule",
    "TraceDenoisingIWAE_ELBO",
    "TraceDenoising_ELBO",
    "TraceMeanFieldDenoising_ELBO",
    "TraceSemiImplicit_ELBO",
    "Trainer",
    "annealed_log_likelihood",
    "bidirectional",
    "bounds_report",
    "clean_input",
    "corrupt",
    "evaluate_bound",
    "fit",
    "load_dataset",
    "log_likelihood",
]
