"""Executors of planned work: processes of this machine, a Slurm cluster, or Dask's workers.

An executor is any object whose ``submit(function, planned)`` immediately returns something with ``done()``
and ``result()``: one of this folder, a process pool of ``concurrent.futures``, an executor of submitit, or a
Dask client. The driver (:mod:`.driver`) submits, watches and collects; only it writes results.
"""

from pyro_dvae.jobs.executors.choosing import check, opened
from pyro_dvae.jobs.executors.driver import Executor, drive

__all__ = ["Executor", "check", "drive", "opened"]
