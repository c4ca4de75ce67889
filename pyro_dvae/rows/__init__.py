"""Rows of data from any source: tensors, arrays in memory and on disk, tables, data sets and loaders."""

from pyro_dvae.rows.arrays import columns_of, same_columns
from pyro_dvae.rows.data import Arguments, Data, opened, source_of
from pyro_dvae.rows.source import InMemory, Source, gaps_allowed
from pyro_dvae.rows.torch_data import LoaderBatches

__all__ = [
    "Arguments",
    "Data",
    "InMemory",
    "LoaderBatches",
    "Source",
    "columns_of",
    "gaps_allowed",
    "opened",
    "same_columns",
    "source_of",
]
