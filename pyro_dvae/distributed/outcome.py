"""Work that every rank does a part of: its results on every rank, or its failure on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pyro_dvae.distributed.ranks import Ranks
from pyro_dvae.errors import ProcessLostError
from pyro_dvae.ownership import FileOwner

T = TypeVar("T")


def together(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Return what ``work`` returned on each rank, by rank.

    A rank whose work raises tells the others, which would else wait for it for ever: it raises its own error,
    they one that names it. A stop (Ctrl-C) of one is a ``KeyboardInterrupt`` of all.
    """
    if not ranks.several:
        return [work()]
    results: list[T] = []
    failure: BaseException | None = None
    try:
        results.append(work())
    except ProcessLostError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    outcomes = ranks.gather((results, text, isinstance(failure, KeyboardInterrupt)))
    if failure is not None:
        raise failure
    for rank, (_, message, stopped) in enumerate(outcomes):
        if message is not None:
            raise KeyboardInterrupt if stopped else ProcessLostError(f"rank {rank} failed: {message}")
    return [result for found, _, _ in outcomes for result in found]


def take_files(ranks: Ranks, owner: FileOwner) -> None:
    """Take the files of ``owner``; of several processes rank 0 does so for all."""
    together(ranks, owner.take if ranks.first else lambda: None)
