"""Denoising variational inference for Pyro.

The public names are loaded when they are first used: importing the package, and ``pyro-dvae --help``, do not
wait for torch. Type checkers read the same names in ``__init__.pyi``.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

import lazy_loader as _lazy

_SUBMODULES = {
    "baselines",
    "bayes",
    "bounds",
    "compiled",
    "corruptions",
    "datasets",
    "draw",
    "evaluation",
    "guides",
    "networks",
    "priors",
    "recording",
    "training",
}
_NAMES = {
    "baselines": ["Autoencoder"],
    "bayes": ["FullBayes"],
    "bounds": [
        "TraceDenoising_ELBO",
        "TraceDenoisingIWAE_ELBO",
        "TraceMeanFieldDenoising_ELBO",
        "TraceSemiImplicit_ELBO",
    ],
    "compiled": ["CompiledSVI"],
    "corruptions": [
        "BitFlip",
        "ConstantSchedule",
        "Corruption",
        "GaussianNoise",
        "LinearSchedule",
        "Masking",
        "NetworkCorruption",
        "NoCorruption",
        "SaltAndPepper",
        "StepSchedule",
    ],
    "datasets": ["Dataset", "load_dataset"],
    "draw": ["DRAW"],
    "errors": ["CheckpointError", "DataError", "DivergenceError", "InputError"],
    "evaluation": [
        "BoundsReport",
        "Estimate",
        "LogLikelihood",
        "annealed_log_likelihood",
        "bidirectional",
        "binary_code",
        "bounds_report",
        "evaluate_bound",
        "log_likelihood",
    ],
    "guides": [
        "BernoulliGuide",
        "CategoricalGuide",
        "ChainGuide",
        "ConcreteGuide",
        "DenoisingGuide",
        "FlowGuide",
        "FullCovarianceGuide",
        "GaussianGuide",
        "GumbelSoftmaxGuide",
        "ImplicitGuide",
        "MixtureGuide",
    ],
    "models": ["DVAE", "ChainModel", "LatentVariableModel"],
    "priors": [
        "BernoulliPrior",
        "CategoricalPrior",
        "ConcretePrior",
        "GaussianPair",
        "GumbelSoftmaxPrior",
        "MixturePrior",
        "Prior",
        "SparseBeta",
        "StandardNormal",
        "VampPrior",
    ],
    "sites": ["auxiliary", "clean_input", "corrupt"],
    "training": ["Fitted", "History", "Trainer", "fit", "fit_many"],
}

try:
    __version__ = _version("pyro-dvae")
except PackageNotFoundError:  # imported from a folder or an archive that was not installed
    __version__ = "unknown"
__getattr__, __dir__, __all__ = _lazy.attach(__name__, _SUBMODULES, _NAMES)
