"""Rows of data from anywhere: tensors, arrays in memory and on disk, tables, data sets and loaders."""

from pyro_dvae.rows.data import Arguments, Data, opened, source_of
from pyro_dvae.rows.source import InMemory, Source, gaps_allowed
from pyro_dvae.rows.torch_data import Stream

__all__ = ["Arguments", "Data", "InMemory", "Source", "Stream", "gaps_allowed", "opened", "source_of"]
