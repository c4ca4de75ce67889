from . import baselines as baselines
from . import bayes as bayes
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
from .baselines import Autoencoder
from .bayes import FullBayes
from .bounds import (
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceMeanFieldDenoising_ELBO,
    TraceSemiImplicit_ELBO,
)
from .compiled import CompiledLoss, CompiledSVI, compile_loss
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
from .errors import CheckpointError, CompiledStepError, DataError, DivergenceError, InputError
from .evaluation import (
    BoundsReport,
    Estimate,
    LogLikelihood,
    annealed_log_likelihood,
    bidirectional,
    binary_code,
    bounds_report,
    evaluate_bound,
    log_likelihood,
)
from .guides import (
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
from .models import DVAE, ChainModel, LatentVariableModel
from .priors import (
    BernoulliPrior,
    CategoricalPrior,
    ConcretePrior,
    GaussianPair,
    GumbelSoftmaxPrior,
    MixturePrior,
    Prior,
    SparseBeta,
    StandardNormal,
    VampPrior,
)
from .sites import auxiliary, clean_input, corrupt
from .training import Fitted, History, Trainer, fit, fit_many

__version__: str

__all__ = [
    "DRAW",
    "DVAE",
    "Autoencoder",
    "BernoulliGuide",
    "BernoulliPrior",
    "BitFlip",
    "BoundsReport",
    "CategoricalGuide",
    "CategoricalPrior",
    "ChainGuide",
    "ChainModel",
    "CheckpointError",
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
    "NetworkCorruption",
    "NoCorruption",
    "Prior",
    "SaltAndPepper",
    "SparseBeta",
    "StandardNormal",
    "StepSchedule",
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
    "clean_input",
    "compile_loss",
    "corrupt",
    "evaluate_bound",
    "fit",
    "fit_many",
    "load_dataset",
    "log_likelihood",
]
