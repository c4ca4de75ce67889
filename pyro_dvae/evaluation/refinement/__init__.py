"""Proposals refined for each row: their start, their optimization, and the choice of one for each row."""

from pyro_dvae.evaluation.refinement.settings import Refinement

__all__ = ["Refinement"]
