"""Evaluation of a model and guide on held-out data."""

from pyro_dvae.evaluation.estimates import Estimate, evaluate_bound

__all__ = ["Estimate", "evaluate_bound"]
