"""The experiments of the sources, declared as data in ``catalogue``, one file each, and how they are run."""

from pyro_dvae.jobs.experiments.declaration import Case, Experiment, Planned, Published, Table, plan
from pyro_dvae.jobs.experiments.registry import experiment, experiments

__all__ = ["Case", "Experiment", "Planned", "Published", "Table", "experiment", "experiments", "plan"]
