"""Data sets (train, validation and test tensors, with their source), and binarisation."""

# Each module registers its loaders; a new data set needs a new file and a name here.
from pyro_dvae.datasets import (  # noqa: F401
    arrays,
    binarised_mnist,
    colour,
    digits,
    folder,
    frey,
    mnist,
    omniglot,
    silhouettes,
    tables,
)
from pyro_dvae.datasets.base import Dataset
from pyro_dvae.datasets.binarisation import Binarisation, binarisation, binarisation_names, binarise_dataset
from pyro_dvae.datasets.registry import (
    absolute_name,
    dataset_names,
    is_file_name,
    is_own,
    load_dataset,
    read_file,
)

__all__ = [
    "Binarisation",
    "Dataset",
    "absolute_name",
    "binarisation",
    "binarisation_names",
    "binarise_dataset",
    "dataset_names",
    "is_file_name",
    "is_own",
    "load_dataset",
    "read_file",
]
