"""Callbacks of training: early stopping, logs, and a base class."""

from pyro_dvae.training.callbacks.base import Callback, Running
from pyro_dvae.training.callbacks.early_stopping import EarlyStopping
from pyro_dvae.training.callbacks.logs import CSVLog, TensorBoard

__all__ = ["CSVLog", "Callback", "EarlyStopping", "Running", "TensorBoard"]
