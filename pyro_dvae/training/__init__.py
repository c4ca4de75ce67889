"""Training any Pyro model and guide by any bound, with checkpoints and exact resume."""

from pyro_dvae.interrupts import Stopped
from pyro_dvae.training.callbacks import Callback, CSVLog, EarlyStopping, Running, TensorBoard
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.front_door import fit
from pyro_dvae.training.history import History
from pyro_dvae.training.many import fit_many
from pyro_dvae.training.run_state import load_trained
from pyro_dvae.training.trainer import Epoch, Trainer

__all__ = [
    "CSVLog",
    "Callback",
    "EarlyStopping",
    "Epoch",
    "Fitted",
    "History",
    "Running",
    "Stopped",
    "TensorBoard",
    "Trainer",
    "fit",
    "fit_many",
    "load_trained",
]
