"""Anything given anything: the missing cells of rows from the observed ones, by one conditional engine."""

from pyro_dvae.conditioning.condition import condition
from pyro_dvae.conditioning.gaps import InferenceGaps, inference_gaps
from pyro_dvae.conditioning.programs import fill_gaps, with_gaps
from pyro_dvae.conditioning.result import Conditioned
from pyro_dvae.conditioning.verbs import Prediction, anomaly_score, impute, predict, sample_given

__all__ = [
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
]
