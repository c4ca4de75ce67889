"""Proposals that are refined for each row: where they start, how they climb, and which one a row needs."""

from pyro_dvae.evaluation.refinement.settings import Refinement

__all__ = ["Refinement"]
