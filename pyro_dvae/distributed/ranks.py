"""Communication between the processes of a group, and their random states; no-ops with one process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from pyro_dvae.distributed.group import launched
from pyro_dvae.errors import ProcessLostError, warn
from pyro_dvae.ownership import FileOwner
from pyro_dvae.random_state import capture, derived_seed, forked
from pyro_dvae.rows.data import share

T = TypeVar("T")
# Marks of gloo's and NCCL's errors that are plain RuntimeErrors.
_MARKS = ("closed by peer", "reset by peer", "gloo", "NCCL", "Broken pipe", "Connection refused", "imed out")

# gloo is faster with large messages in parts, because it sends one part while it adds another.
_PARTS, _MANY = 8, 2**18


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of processes in the group.

    Every method is called by all ranks, in the same order.

    :param rank: from 0; rank 0 writes the files and prints.
    :param count: number of ranks.
    :param remedy: returns text to add to the message when another process is lost.
    """

    rank: int = 0
    count: int = 1
    remedy: Callable[[], str] = _nothing

    @classmethod
    def present(cls, remedy: Callable[[], str] = _nothing) -> Ranks:
        """Return the ranks of ``torch.distributed``'s group, or of a single process without a group.

        A warning tells processes of ``torchrun`` that are not in a group.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            if launched():
                warn(
                    f"{os.environ['WORLD_SIZE']} processes were started, but each does all the work alone; "
                    "to share it, call torch.distributed.init_process_group() first"
                )
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size(), remedy)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.count > 1

    def share(self, rows: int) -> slice:
        """Return this rank's part of ``rows`` in order; sizes differ by at most one, and may be 0."""
        return share(rows, self.rank, self.count)

    def part(self, share: float | None) -> float:
        """Return this rank's share of a batch; an equal share if ``share`` is None."""
        return 1 / self.count if share is None else share

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum over the ranks of each value."""
        return self.sum_of(torch.tensor(values, dtype=torch.float64)).tolist() if self.several else [*values]

    def sum_of(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks of a tensor."""
        if not self.several:
            return values
        on_cpu = "cpu:" in distributed.get_backend_config()
        total = values.detach().to("cpu" if on_cpu else "cuda", copy=True)
        with self.guarded():
            distributed.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank."""
        if not self.several:
            return [value]
        values: list[T] = [value] * self.count
        with self.guarded():
            distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: T) -> T:
        """Return rank 0's value."""
        return self.gather(value)[0]

    @contextmanager
    def first_goes_before(self) -> Iterator[None]:
        """Run the body on rank 0 first, then on the others, which find the files that rank 0 has fetched."""
        if not self.first:
            self.gather(None)
        yield
        if self.first:
            self.gather(None)

    def add_up(self, tensor: Tensor) -> None:
        """Add the other ranks' tensors to this one-dimensional tensor, in place."""
        parts = tensor.chunk(_PARTS) if len(tensor) >= _MANY and tensor.is_cpu else [tensor]
        with self.guarded():
            for work in [distributed.all_reduce(part, async_op=True) for part in parts]:
                work.wait()

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Copy rank 0's tensors into these."""
        if self.several:
            for tensor in tensors:
                with self.guarded(), torch.no_grad():
                    distributed.broadcast(tensor, 0)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Report a lost process in one line instead of network errors.

        :raises ProcessLostError: another process ended or cannot be reached.
        """
        try:
            yield
        except RuntimeError as error:
            known = isinstance(error, distributed.DistError)
            if not known and not any(mark in str(error) for mark in _MARKS):
                raise
            raise ProcessLostError(
                f"another of the {self.count} processes ended or cannot be reached, noticed by rank "
                f"{self.rank}{self.remedy()}"
            ) from None


def together(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Return the results of ``work`` on all ranks, by rank.

    If the work of a rank raises, the other ranks raise an error that names this rank, instead of waiting for
    ever. A stop (Ctrl-C) of one rank raises ``KeyboardInterrupt`` on all.
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
    """Take the files of ``owner``; with several processes, rank 0 takes them for all."""
    together(ranks, owner.take if ranks.first else lambda: None)


State = tuple[Mapping[str, Tensor], Mapping[str, Any]]


def seed_of_rank(ranks: Ranks, seed: int) -> int:
    """Return the seed of a rank's hashed noise; rank 0 has the seed of a single process."""
    return seed if ranks.first else derived_seed(seed, "rank", ranks.rank)


def starting_random(ranks: Ranks, seed: int) -> State | None:
    """Return the random states with which a rank starts training; None for the current global ones.

    Rank 0 keeps its own. Another rank derives its states from its own, ``seed`` and the rank, so that they
    differ even if the script seeded all processes alike.
    """
    if ranks.first:
        return None
    present = hashlib.blake2b(capture()[0]["cpu"].numpy().data).hexdigest()
    with forked(derived_seed(seed, "rank", ranks.rank, present)):
        return capture()


def pack_random(ranks: Ranks, own: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the other ranks' random states for a checkpoint; empty for a single process."""
    if not ranks.several:
        return {}, {}
    states = ranks.gather(own)
    tensors = {
        f"ranks/{rank}/{name}": tensor
        for rank, (group, _) in enumerate(states)
        if rank
        for name, tensor in group.items()
    }
    return tensors, {"ranks": [dict(state) for _, state in states]}


def unpack_random(
    ranks: Ranks, tensors: Mapping[str, Tensor], state: Mapping[str, Any], first: State, seed: int
) -> State:
    """Return this rank's random states from a checkpoint, or new ones if the checkpoint has none for it.

    :param first: the states of rank 0.
    """
    saved = state.get("ranks") or [first[1]]
    if len(saved) != ranks.count and ranks.first:
        warn(
            f"the checkpoint was written by {len(saved)} process(es), now there are {ranks.count}: training "
            "continues with different noise",
        )
    if ranks.first:
        return first
    if ranks.rank < len(saved):
        prefix = f"ranks/{ranks.rank}/"
        own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        return own, saved[ranks.rank]
    position = (state["epoch"], state["position"])
    with forked(derived_seed(seed, "rank", ranks.rank, "joined", *position)):
        return capture()
