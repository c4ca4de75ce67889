"""The published experiments, declared in ``catalogue`` with one file per source, and how they run."""

from pyro_dvae.jobs.experiments.catalogue import experiment, experiments
from pyro_dvae.jobs.experiments.declaration import Case, Experiment, Planned, Published, Table, plan

__all__ = ["Case", "Experiment", "Planned", "Published", "Table", "experiment", "experiments", "plan"]
