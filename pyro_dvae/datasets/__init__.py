"""Data sets (train, validation and test tensors, with their source), and binarisation."""

# Each of these modules registers what it loads: a new data set is one new file and one name here.
from pyro_dvae.datasets import arrays, digits, frey, mnist, tables  # noqa: F401
from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.binarisation import Binarisation, binarisation, binarisation_names, binarise_dataset
from pyro_dvae.datasets.registry import dataset_names, is_file_name, load_dataset

__all__ = [
    "Binarisation",
    "Dataset",
    "binarisation",
    "binarisation_names",
    "binarise_dataset",
    "dataset_names",
    "is_file_name",
    "load_dataset",
]
