"""Jobs of a Slurm cluster, through submitit: https://github.com/facebookincubator/submitit.

A job that is preempted, or reaches its time limit, is put back into the queue and goes on from its checkpoint
(submitit's checkpoint protocol: :meth:`.worker.Work.checkpoint`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyro_dvae.errors import InputError

_DEFAULTS = {"name": "pyro-dvae", "timeout_min": 240, "cpus_per_task": 1}
_REQUEUED_AT_MOST = 100  # after as many time limits


class Slurm:
    """Submits a job for each piece of work.

    :param folder: a folder that all nodes share: scripts, logs and results lie in ``jobs/`` there.
    :param options: parameters of ``submitit.AutoExecutor``, and ``cluster``: ``"local"`` is for trying out.
    """

    grace = 0.0  # cancelling asks them to save

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        import submitit

        chosen = {**_DEFAULTS, **options}
        # A folder for each driver, as submitit's own local jobs are numbered by process.
        place = folder / "jobs" / time.strftime("%Y%m%d-%H%M%S")
        limits = {f"{kind}_max_num_timeout": _REQUEUED_AT_MOST for kind in ("slurm", "local")}
        try:
            self._executor = submitit.AutoExecutor(place, cluster=chosen.pop("cluster", "slurm"), **limits)
            self._executor.update_parameters(**chosen)
        except (RuntimeError, ValueError, NameError, AssertionError) as error:
            raise InputError(f"executor: submitit: {error}") from None

    def submit(self, function: Callable[[Any], Any], planned: Any) -> Any:
        """Submit a job that calls ``function(planned)``."""
        return self._executor.submit(function, planned)
