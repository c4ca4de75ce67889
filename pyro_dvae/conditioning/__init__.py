"""Conditioning: draw the missing cells of rows given the observed ones."""

from pyro_dvae.conditioning.applications import Prediction, impute, imputed, predict, predicted, sample_given
from pyro_dvae.conditioning.condition import condition
from pyro_dvae.conditioning.gaps import InferenceGaps, inference_gaps
from pyro_dvae.conditioning.programs import fill_gaps, table_rows, with_gaps
from pyro_dvae.conditioning.result import Completions, Conditioned
from pyro_dvae.conditioning.scores import anomaly_score, given_the_rest

__all__ = [
    "Completions",
    "Conditioned",
    "InferenceGaps",
    "Prediction",
    "anomaly_score",
    "condition",
    "fill_gaps",
    "given_the_rest",
    "impute",
    "imputed",
    "inference_gaps",
    "predict",
    "predicted",
    "sample_given",
    "table_rows",
    "with_gaps",
]
