"""Work on many rows, in parts, on an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyro_dvae.jobs.executors import Executor, drive, opened
from pyro_dvae.jobs.executors.run_progress import ProgressRelay, RunsProgress
from pyro_dvae.machine import available_cores

T = TypeVar("T")


@dataclass(frozen=True)
class PartOfRows:
    """One of several parts of the rows; results depend neither on the number of parts nor on the worker."""

    index: int
    count: int

    @property
    def name(self) -> str:
        """The part in words."""
        return f"part {self.index + 1} of {self.count}"

    @property
    def key(self) -> str:
        """The part as a file name."""
        return f"{self.index + 1}-of-{self.count}"

    @property
    def pair(self) -> tuple[int, int]:
        """The part as an argument of evaluations."""
        return self.index, self.count


@dataclass(frozen=True)
class Workers:
    """Where to work on parts of rows, if not in this process.

    :param executor: as for :func:`~pyro_dvae.jobs.executors.opened`.
    :param options: options of the executor.
    :param jobs: parts at a time; by default one per core for ``"local"``, else all.
    """

    executor: str | Executor
    options: Mapping[str, Any]
    jobs: int | None = None

    def perform(
        self,
        function: Callable[[PartOfRows, ProgressRelay], T],
        parts: Sequence[PartOfRows],
        folder: Path,
        quiet: bool,
    ) -> list[T]:
        """Return ``function`` of each part, in order.

        :param function: a picklable function, which stores its progress in ``folder``.
        :param folder: a folder that all workers share.
        :raises Stopped: after Ctrl-C or SIGTERM; the same call continues.
        """
        found: dict[PartOfRows, T] = {}

        def keep(part: PartOfRows, result: T) -> str:
            found[part] = result
            return "done"

        width = (self.jobs or available_cores()) if self.executor == "local" else self.jobs
        watch = RunsProgress(len(parts), quiet=quiet)
        try:
            with opened(self.executor, folder, self.jobs, self.options) as executor:
                drive(executor, function, parts, folder, watch=watch, keep=keep, width=width)
        finally:
            watch.stop()
        return [found[each] for each in parts]


def parts_of(rows: int, size: int, most: int = 64) -> list[PartOfRows]:
    """Return at most ``most`` parts of about ``size`` rows, independent of the number of workers."""
    count = max(1, min(most, -(-rows // size)))
    return [PartOfRows(index, count) for index in range(count)]
