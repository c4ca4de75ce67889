"""The executors by name: this machine, Slurm (github.com/facebookincubator/submitit), and Dask."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown, warn
from pyro_dvae.interrupts import Interrupts
from pyro_dvae.jobs.executors.driver import Executor
from pyro_dvae.jobs.executors.worker import GUARD
from pyro_dvae.jobs.options import EXECUTORS
from pyro_dvae.machine import available_cores

Options = Mapping[str, Any]


_DEFAULTS = {"name": "pyro-dvae", "timeout_min": 240, "cpus_per_task": 1}
_REQUEUED_AT_MOST = 100  # times that a job may reach its time limit


class Slurm:
    """Submits a job of a Slurm cluster for each piece of work.

    A job that is preempted, or reaches its time limit, is put back into the queue and continues from its
    checkpoint (submitit's checkpoint protocol: :meth:`.worker.Work.checkpoint`).

    :param folder: a folder that all nodes share, with scripts, logs and results in ``jobs/``.
    :param options: parameters of ``submitit.AutoExecutor``, and ``cluster`` (``"local"`` for trials).
    """

    grace = 0.0  # cancelled jobs save their checkpoints

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        import submitit

        chosen = {**_DEFAULTS, **options}
        # A folder for each driver, because submitit numbers its own local jobs by process.
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


_OF_CLIENT = ("address", "scheduler_file")
# A terminal also sends these to the processes of a LocalCluster, which save their work when the driver stops.
_STAYS = """
import signal
for name in {"SIGINT", "SIGHUP"} & {each.name for each in signal.Signals}:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
"""


@contextmanager
def _workers(jobs: int, options: Options) -> Iterator[Executor]:
    """Yield a client of Dask, which is an executor; each worker does one piece of work at a time.

    :param jobs: number of workers of a ``LocalCluster``.
    :param options: ``address`` or ``scheduler_file`` of a scheduler, and other arguments of ``Client``;
        without these, arguments of a new ``LocalCluster``.
    """
    with _needs("distributed"):
        import dask
        from distributed import Client, LocalCluster
    place = next((str(options[name]) for name in _OF_CLIENT if name in options), None)
    usual: dict[str, Any] = {"n_workers": jobs, "threads_per_worker": 1, "processes": True}
    usual["dashboard_address"] = ":0"  # any free port, because there may be other clusters on this machine
    with ExitStack() as open_until_the_end:
        try:
            if place is not None:
                client = Client(**options)
            else:
                usual |= options
                if usual["processes"]:
                    usual.setdefault("preload", [_STAYS, *dask.config.get("distributed.worker.preload")])
                with Interrupts() as meanwhile:  # an incomplete cluster cannot be closed
                    try:
                        cluster = open_until_the_end.enter_context(LocalCluster(**usual))
                    finally:
                        if meanwhile.requested:
                            raise KeyboardInterrupt
                client = Client(cluster)
            open_until_the_end.enter_context(client)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            # A new process first runs the script again.
            guard = f"; {GUARD}" if place is None and isinstance(error, RuntimeError) else ""
            raise InputError(f"executor: dask: {place or 'LocalCluster'}: {error}{guard}") from None
        if not client.scheduler_info()["workers"]:
            warn(
                f"executor: dask: the scheduler {place} has no workers yet; the work waits for the first one"
            )
        yield client


@contextmanager
def opened(
    executor: str | Executor, folder: Path, jobs: int | None = None, options: Options | None = None
) -> Iterator[Executor]:
    """Yield an executor, and close it afterwards unless it is the user's own.

    :param executor: ``"local"``, ``"submitit"`` or ``"dask"``, or an object with ``submit``.
    :param folder: a folder that the workers share; submitit stores its logs there.
    :param jobs: number of workers of Dask's ``LocalCluster``; by default one per core.
    :param options: options of the executor: submitit's parameters (``timeout_min``, ``slurm_partition``,
        ...), or arguments of Dask's ``Client`` (``address``, ``scheduler_file``), else of its
        ``LocalCluster``.
    :raises InputError: there is no such executor or option, or its package is not installed.
    """
    options = dict(options or {})
    check(executor, options)
    if executor == "submitit":
        with _needs("submitit"):
            found: Executor = Slurm(folder, options)
        yield found
    elif executor == "dask":
        with _workers(jobs or available_cores(), options) as client:
            yield client
    elif executor == "local":
        from pyro_dvae.jobs.executors.local import Local

        pool = Local()
        try:
            yield pool
        finally:
            pool.close()
    else:
        yield cast(Executor, executor)


def check(executor: str | Executor, options: Options) -> None:
    """Refuse anything but an executor, and options for an executor without options."""
    if isinstance(executor, str):
        checks.known("executor", executor, EXECUTORS)
    elif isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        known = ", ".join(EXECUTORS)
        raise InputError(f"executor: expected {known} or an object with submit, got {shown(executor)}")
    if options and executor not in EXECUTORS[1:]:
        raise InputError("executor_options: only the executors submitit and dask take options")


@contextmanager
def _needs(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name != package:
            raise
        raise InputError(f"executor: {package} is not installed: pip install 'pyro-dvae[cluster]'") from None


def parsed(given: Sequence[str]) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` texts of the command line to a dictionary.

    A value is true or false, a number if it is written as Python prints it, a list or record in JSON, or else
    text, so that ``00123`` and ``2024_05`` remain what they are.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals and value):
            raise InputError(f"executor_option: expected NAME=VALUE, got {text!r}")
        found[name] = _value(name, value)
    return found


def _value(name: str, text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text[0] in "[{":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(
                f'executor_option: expected a list or record in JSON for {name}, such as ["a", "b"], '
                f"got {shown(text)}"
            ) from None
    for kind in (int, float):
        with suppress(ValueError):
            if str(number := kind(text)) == text and abs(number) < math.inf:
                return number
    return text
