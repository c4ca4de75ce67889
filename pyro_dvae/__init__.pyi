from . import bounds as bounds
from . import corruptions as corruptions
from . import datasets as datasets
from . import evaluation as evaluation
from . import guides as guides
from . import networks as networks
from . import priors as priors
from . import recording as recording
from . import training as training
from .bounds import (
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceMeanFieldDenoising_ELBO,
    TraceSemiImplicit_ELBO,
)
from .corruptions import (
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
from .datasets import Dataset, load_dataset
from .errors import CheckpointError, DataError, DivergenceError, InputError
from .evaluation import (
    BoundsReport,
    Estimate,
    LogLikelihood,
    annealed_log_likelihood,
    bidirectional,
    bounds_report,
    evaluate_bound,
    log_likelihood,
)
from .guides import DenoisingGuide, GaussianGuide
from .models import DVAE, LatentVariableModel
from .sites import clean_input, corrupt
from .training import History, Trainer, fit

__version__: str

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
    "LatentVariableModel",
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
