"""The executors by name. submitit and Dask are imported only where they are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.jobs.executors.driver import Executor
from pyro_dvae.jobs.options import EXECUTORS
from pyro_dvae.machine import available_cores

Options = Mapping[str, Any]


@contextmanager
def opened(
    executor: str | Executor, folder: Path, jobs: int | None = None, options: Options | None = None
) -> Iterator[Executor]:
    """Yield an executor, and close it afterwards; one that was made by the user is left open.

    :param executor: ``"local"``, ``"submitit"`` or ``"dask"``, or an object with ``submit``.
    :param folder: a folder that the workers share; submitit keeps its jobs' logs there.
    :param jobs: the workers of Dask's ``LocalCluster``; by default one per core.
    :param options: of the executor: submitit's parameters (``timeout_min``, ``slurm_partition``, ...), or the
        arguments of Dask's ``Client`` (``address``, ``scheduler_file``), else of its ``LocalCluster``.
    :raises InputError: there is no such executor or option, or its package is not installed.
    """
    options = dict(options or {})
    check(executor, options)
    if executor == "submitit":
        from pyro_dvae.jobs.executors.slurm import Slurm

        with _needs("submitit"):
            found: Executor = Slurm(folder, options)
        yield found
    elif executor == "dask":
        with _needs("distributed"):
            from pyro_dvae.jobs.executors.dask import workers
        with workers(jobs or available_cores(), options) as client:
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
    """Refuse what is no executor, and options for one that has none."""
    if isinstance(executor, str):
        checks.known("executor", executor, EXECUTORS)
    elif isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        known = ", ".join(EXECUTORS)
        raise InputError(f"executor: expected {known} or an object with submit, got {shown(executor)}")
    if options and executor not in EXECUTORS[1:]:
        raise InputError("executor_options: they are for the executors submitit and dask")


@contextmanager
def _needs(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name != package:
            raise
        raise InputError(f"executor: {package} is not installed: pip install 'pyro-dvae[cluster]'") from None


def parsed(given: Sequence[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts of the command line as a dictionary; numbers become numbers."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals and value):
            raise InputError(f"executor_option: expected NAME=VALUE, got {text!r}")
        found[name] = value
        for kind in (float, int):
            with suppress(ValueError):
                found[name] = kind(value)
    return found
