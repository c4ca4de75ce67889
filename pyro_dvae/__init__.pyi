from . import bounds as bounds
from . import compiled as compiled
from . import corruptions as corruptions
from . import datasets as datasets
from . import draw as draw
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
from .compiled import CompiledSVI
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
from .draw import DRAW
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
from .guides import (
    ChainGuide,
    DenoisingGuide,
    FlowGuide,
    FullCovarianceGuide,
    GaussianGuide,
    ImplicitGuide,
    MixtureGuide,
)
from .models import DVAE, ChainModel, LatentVariableModel
from .sites import clean_input, corrupt
from .training import Fitted, History, Trainer, fit, fit_many

__version__: str

__all__ = [
    "DRAW",
    "DVAE",
    "BitFlip",
    "BoundsReport",
    "ChainGuide",
    "ChainModel",
    "CheckpointError",
    "CompiledSVI",
    "ConstantSchedule",
    "Corruption",
    "DataError",
    "Dataset",
    "DenoisingGuide",
    "DivergenceError",
    "Estimate",
    "Fitted",
    "FlowGuide",
    "FullCovarianceGuide",
    "GaussianGuide",
    "GaussianNoise",
    "History",
    "ImplicitGuide",
    "InputError",
    "LatentVariableModel",
    "LinearSchedule",
    "LogLikelihood",
    "Masking",
    "MixtureGuide",
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
    "fit_many",
    "load_dataset",
    "log_likelihood",
]
