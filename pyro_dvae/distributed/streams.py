"""Random streams of the ranks: different noise on each, and all of them in the checkpoint of rank 0."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_dvae.distributed.ranks import Ranks
from pyro_dvae.random_state import capture, derived_seed, forked

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]


def starting(ranks: Ranks, seed: int) -> State | None:
    """Return the random states that a rank starts training with; None for the global ones as they stand.

    Rank 0 keeps its own. Those of another come from its own, ``seed`` and the rank, so that they differ
    whether or not the script seeded every process alike.
    """
    if ranks.first:
        return None
    present = hashlib.blake2b(capture()[0]["cpu"].numpy().data).hexdigest()
    with forked(derived_seed(seed, "rank", ranks.rank, present)):
        return capture()


def pack(ranks: Ranks, own: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a checkpoint holds of the other ranks' random states; of a single process, nothing."""
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


def unpack(
    ranks: Ranks, tensors: Mapping[str, Tensor], state: Mapping[str, Any], first: State, seed: int
) -> State:
    """Return this rank's random states from a checkpoint, or fresh ones if it was not among its ranks.

    :param first: those of rank 0.
    """
    saved = state.get("ranks") or [first[1]]
    if len(saved) != ranks.count and ranks.first:
        warnings.warn(
            f"the checkpoint is of {len(saved)} process(es), now there are {ranks.count}: training goes on "
            "with other noise than it would have had",
            stacklevel=2,
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
