"""Pareto-smoothed importance sampling as the installed ArviZ computes it."""

import warnings

import numpy as np
import torch

from pyro_dvae.evaluation.importance.arviz_export import import_arviz


def psis_of_arviz(log_weight):
    """Normalised smoothed log weights and k; ArviZ 1.x takes the negative of the log weights."""
    arviz = import_arviz()
    values = log_weight.numpy().copy()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if arviz.__version__.startswith("0."):
            smoothed, k = arviz.psislw(values)
        else:
            from arviz_stats.base import array_stats

            smoothed, k = array_stats.psislw(-values)
    return torch.as_tensor(smoothed), torch.as_tensor(k)
