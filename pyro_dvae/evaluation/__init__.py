"""Evaluation of a model and guide on held-out data."""

from pyro_dvae.evaluation.annealing import (
    AnnealedLikelihood,
    BidirectionalReport,
    annealed_log_likelihood,
    bidirectional,
)
from pyro_dvae.evaluation.bounds_record import BoundsEntry, BoundsReport, OrderViolation
from pyro_dvae.evaluation.bounds_report import bounds_report
from pyro_dvae.evaluation.check import Check, check
from pyro_dvae.evaluation.estimates import Estimate, evaluate_bound
from pyro_dvae.evaluation.importance import LogLikelihood, Proposal, log_likelihood
from pyro_dvae.evaluation.importance.arviz_export import read_netcdf, write_netcdf
from pyro_dvae.evaluation.measures import (
    ActiveUnits,
    BinaryCode,
    BoundParts,
    CountSplit,
    CountSplitErrors,
    LinearProbe,
    ReconstructionError,
    SampleQuality,
    active_units,
    binary_code,
    bits_per_dim,
    bound_parts,
    count_split,
    denoised_counts,
    denoised_logs,
    latent_means,
    linear_probe,
    reconstruction_error,
    sample_quality,
)
from pyro_dvae.evaluation.refinement import Refinement

__all__ = [
    "ActiveUnits",
    "AnnealedLikelihood",
    "BidirectionalReport",
    "BinaryCode",
    "BoundParts",
    "BoundsEntry",
    "BoundsReport",
    "Check",
    "CountSplit",
    "CountSplitErrors",
    "Estimate",
    "LinearProbe",
    "LogLikelihood",
    "OrderViolation",
    "Proposal",
    "ReconstructionError",
    "Refinement",
    "SampleQuality",
    "active_units",
    "annealed_log_likelihood",
    "bidirectional",
    "binary_code",
    "bits_per_dim",
    "bound_parts",
    "bounds_report",
    "check",
    "count_split",
    "denoised_counts",
    "denoised_logs",
    "evaluate_bound",
    "latent_means",
    "linear_probe",
    "log_likelihood",
    "read_netcdf",
    "reconstruction_error",
    "sample_quality",
    "write_netcdf",
]
