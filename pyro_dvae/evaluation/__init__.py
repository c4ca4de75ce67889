"""Evaluation of a model and guide on held-out data."""

from pyro_dvae.evaluation.estimates import Estimate, evaluate_bound
from pyro_dvae.evaluation.report import BoundsEntry, BoundsReport, OrderViolation, bounds_report

__all__ = ["BoundsEntry", "BoundsReport", "Estimate", "OrderViolation", "bounds_report", "evaluate_bound"]
