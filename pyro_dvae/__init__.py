"""Denoising variational inference for Pyro.

The public names are loaded when they are first used: importing the package, and ``pyro-dvae --help``, do not
wait for torch. Type checkers read the same names in ``__init__.pyi``.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

import lazy_loader as _lazy

_SUBMODULES = {
    "bounds",
    "conditioning",
    "corruptions",
    "datasets",
    "engine",
    "evaluation",
    "guides",
    "models",
    "networks",
    "plots",
    "priors",
    "training",
    "using",
}
_NAMES = {
    "bounds": [
        "TraceDenoising_ELBO",
        "TraceDenoisingIWAE_ELBO",
        "TraceMeanFieldDenoising_ELBO",
        "TraceSemiImplicit_ELBO",
    ],
    "conditioning": [
        "Completions",
        "Conditioned",
        "InferenceGaps",
        "Prediction",
        "anomaly_score",
        "condition",
        "fill_gaps",
        "impute",
        "inference_gaps",
        "predict",
        "sample_given",
        "with_gaps",
    ],
    "engine": ["CompiledLoss", "CompiledSVI", "compile_loss"],
    "corruptions": [
        "BinomialThinning",
        "BitFlip",
        "ConstantSchedule",
        "Corruption",
        "GaussianNoise",
        "LinearSchedule",
        "Masking",
        "MultiplicativeNoise",
        "NetworkCorruption",
        "NoCorruption",
        "SaltAndPepper",
        "StepSchedule",
        "SwapNoise",
    ],
    "datasets": ["Dataset", "load_dataset"],
    "errors": ["CheckpointError", "CompiledStepError", "DataError", "DivergenceError", "InputError"],
    "evaluation": [
        "BoundsReport",
        "Check",
        "Estimate",
        "LogLikelihood",
        "Refinement",
        "annealed_log_likelihood",
        "bidirectional",
        "binary_code",
        "bounds_report",
        "check",
        "evaluate_bound",
        "log_likelihood",
    ],
    "guides": [
        "AutoEncoderGuide",
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
    "jobs.loading": ["load"],
    "models": [
        "DRAW",
        "DVAE",
        "Autoencoder",
        "ChainModel",
        "FittedTable",
        "FullBayes",
        "LatentVariableModel",
        "fit_table",
    ],
    "priors": [
        "BernoulliPrior",
        "CategoricalPrior",
        "ConcretePrior",
        "FlowPrior",
        "GaussianPair",
        "GumbelSoftmaxPrior",
        "MixturePrior",
        "Prior",
        "SparseBeta",
        "StandardNormal",
        "VampPrior",
    ],
    "sites": ["auxiliary", "clean_input", "corrupt"],
    "training": [
        "CSVLog",
        "Callback",
        "EarlyStopping",
        "Fitted",
        "History",
        "Running",
        "Stopped",
        "TensorBoard",
        "Trainer",
        "fit",
        "fit_many",
    ],
    "using": [
        "Codes",
        "Diagnosis",
        "decode",
        "denoise",
        "diagnose",
        "encode",
        "interpolate",
        "reconstruct",
        "refit_guide",
        "sample",
        "to_arviz",
    ],
}

try:
    __version__ = _version("pyro-dvae")
except PackageNotFoundError:  # imported from a folder or an archive that was not installed
    __version__ = "unknown"
__getattr__, __dir__, __all__ = _lazy.attach(__name__, _SUBMODULES, _NAMES)
