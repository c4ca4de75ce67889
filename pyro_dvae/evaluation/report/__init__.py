"""Every bound of a model and guide beside log p(x), checked for their order."""

from pyro_dvae.evaluation.report.measuring import bounds_report
from pyro_dvae.evaluation.report.result import BoundsEntry, BoundsReport, OrderViolation

__all__ = ["BoundsEntry", "BoundsReport", "OrderViolation", "bounds_report"]
