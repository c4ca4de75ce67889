"""Measures of a trained model and guide: active units, parts of the bound, codes, reconstructions."""

from pyro_dvae.evaluation.measures.activity import ActiveUnits, active_units
from pyro_dvae.evaluation.measures.binary_code import BinaryCode, binary_code
from pyro_dvae.evaluation.measures.codes import DecodingError, ReconstructionError
from pyro_dvae.evaluation.measures.count_split import (
    CountSplit,
    CountSplitErrors,
    count_split,
)
from pyro_dvae.evaluation.measures.denoised import denoised_counts, denoised_logs
from pyro_dvae.evaluation.measures.means import latent_means
from pyro_dvae.evaluation.measures.parts import BoundParts, bound_parts
from pyro_dvae.evaluation.measures.probe import LinearProbe, linear_probe
from pyro_dvae.evaluation.measures.reconstruction import bits_per_dim, reconstruction_error
from pyro_dvae.evaluation.measures.sample_quality import SampleQuality, sample_quality

__all__ = [
    "ActiveUnits",
    "BinaryCode",
    "BoundParts",
    "CountSplit",
    "CountSplitErrors",
    "DecodingError",
    "LinearProbe",
    "ReconstructionError",
    "SampleQuality",
    "active_units",
    "binary_code",
    "bits_per_dim",
    "bound_parts",
    "count_split",
    "denoised_counts",
    "denoised_logs",
    "latent_means",
    "linear_probe",
    "reconstruction_error",
    "sample_quality",
]
