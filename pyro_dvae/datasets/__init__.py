"""Data sets (train, validation and test tensors in [0, 1], with their source), and binarisation."""

# Each of these modules registers what it loads: a new data set is one new file and one name here.
from pyro_dvae.datasets import (  # noqa: F401
    arrays,
    binarised_mnist,
    cifar10,
    digits,
    folder,
    frey,
    mnist,
    omniglot,
    silhouettes,
    svhn,
)
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
