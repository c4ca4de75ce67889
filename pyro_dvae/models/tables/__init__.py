"""Generative models of tables of numbers that need no tuning."""

from pyro_dvae.models.tables.fitting import fit_table
from pyro_dvae.models.tables.table import FittedTable

__all__ = ["FittedTable", "fit_table"]
