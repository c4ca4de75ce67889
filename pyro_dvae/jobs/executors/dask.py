"""Dask's workers: of a scheduler that runs somewhere, or a process for each core of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from distributed import Client, LocalCluster

from pyro_dvae.errors import InputError

_OF_CLIENT = ("address", "scheduler_file")


@contextmanager
def workers(jobs: int, options: Mapping[str, Any]) -> Iterator[Client]:
    """Yield a client, which is an executor; a worker does one piece of work at a time.

    :param jobs: the workers, if they are to be started here.
    :param options: ``address`` or ``scheduler_file`` of a scheduler, and other arguments of ``Client``; or of
        ``LocalCluster``, which is started without them.
    """
    place = next((str(options[name]) for name in _OF_CLIENT if name in options), None)
    usual: dict[str, Any] = {"n_workers": jobs, "threads_per_worker": 1, "processes": True}
    usual["dashboard_address"] = ":0"  # any free port: there may be other clusters on this machine
    with ExitStack() as open_until_the_end:
        try:
            if place is not None:
                client = Client(**options)
            else:
                cluster = LocalCluster(**{**usual, **options})
                client = Client(open_until_the_end.enter_context(cluster))
            open_until_the_end.enter_context(client)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"executor: dask: {place or 'LocalCluster'}: {error}") from None
        yield client
