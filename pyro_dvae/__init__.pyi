from . import bounds as bounds
from . import corruptions as corruptions
from . import datasets as datasets
from . import engine as engine
from . import evaluation as evaluation
from . import guides as guides
from . import models as models
from . import networks as networks
from . import plots as plots
from . import priors as priors
from . import training as training
from . import using as using
from .bounds import (
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceMeanFieldDenoising_ELBO,
    TraceSemiImplicit_ELBO,
)
from .corruptions import (
    BinomialThinning,
    BitFlip,
    ConstantSchedule,
    Corruption,
    GaussianNoise,
    LinearSchedule,
    Masking,
    MultiplicativeNoise,
    NetworkCorruption,
    NoCorruption,
    SaltAndPepper,
    StepSchedule,
    SwapNoise,
)
from .datasets import Dataset, load_dataset
from .engine import CompiledLoss, CompiledSVI, compile_loss
from .errors import CheckpointError, CompiledStepError, DataError, DivergenceError, InputError
from .evaluation import (
    BoundsReport,
    Check,
    Estimate,
    LogLikelihood,
    Refinement,
    annealed_log_likelihood,
    bidirectional,
    binary_code,
    bounds_report,
    check,
    evaluate_bound,
    log_likelihood,
)
from .guides import (
    AutoEncoderGuide,
    BernoulliGuide,
    CategoricalGuide,
    ChainGuide,
    ConcreteGuide,
    DenoisingGuide,
    FlowGuide,
    FullCovarianceGuide,
    GaussianGuide,
    GumbelSoftmaxGuide,
    ImplicitGuide,
    MixtureGuide,
)
from .jobs.loading import load
from .models import DRAW, DVAE, Autoencoder, ChainModel, FullBayes, LatentVariableModel
from .priors import (
    BernoulliPrior,
    CategoricalPrior,
    ConcretePrior,
    FlowPrior,
    GaussianPair,
    GumbelSoftmaxPrior,
    MixturePrior,
    Prior,
    SparseBeta,
    StandardNormal,
    VampPrior,
)
from .sites import auxiliary, clean_input, corrupt
from .training import Fitted, History, Stopped, Trainer, fit, fit_many
from .using import Codes, decode, denoise, encode, interpolate, reconstruct, sample

__version__: str

__all__ = [
    "DRAW",
    "DVAE",
    "AutoEncoderGuide",
    "Autoencoder",
    "BernoulliGuide",
    "BernoulliPrior",
    "BinomialThinning",
    "BitFlip",
    "BoundsReport",
    "CategoricalGuide",
    "CategoricalPrior",
    "ChainGuide",
    "ChainModel",
    "Check",
    "CheckpointError",
    "Codes",
    "CompiledLoss",
    "CompiledSVI",
    "CompiledStepError",
    "ConcreteGuide",
    "ConcretePrior",
    "ConstantSchedule",
    "Corruption",
    "DataError",
    "Dataset",
    "DenoisingGuide",
    "DivergenceError",
    "Estimate",
    "Fitted",
    "FlowGuide",
    "FlowPrior",
    "FullBayes",
    "FullCovarianceGuide",
    "GaussianGuide",
    "GaussianNoise",
    "GaussianPair",
    "GumbelSoftmaxGuide",
    "GumbelSoftmaxPrior",
    "History",
    "ImplicitGuide",
    "InputError",
    "LatentVariableModel",
    "LinearSchedule",
    "LogLikelihood",
    "Masking",
    "MixtureGuide",
    "MixturePrior",
    "MultiplicativeNoise",
    "NetworkCorruption",
    "NoCorruption",
    "Prior",
    "Refinement",
    "SaltAndPepper",
    "SparseBeta",
    "StandardNormal",
    "StepSchedule",
    "Stopped",
    "SwapNoise",
    "TraceDenoisingIWAE_ELBO",
    "TraceDenoising_ELBO",
    "TraceMeanFieldDenoising_ELBO",
    "TraceSemiImplicit_ELBO",
    "Trainer",
    "VampPrior",
    "annealed_log_likelihood",
    "auxiliary",
    "bidirectional",
    "binary_code",
    "bounds_report",
    "check",
    "clean_input",
    "compile_loss",
    "corrupt",
    "decode",
    "denoise",
    "encode",
    "evaluate_bound",
    "fit",
    "fit_many",
    "interpolate",
    "load",
    "load_dataset",
    "log_likelihood",
    "reconstruct",
    "sample",
    "using",
]
