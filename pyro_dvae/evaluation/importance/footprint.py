"""The memory that a run of tensor code takes, found by running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Allocations(TorchDispatchMode):
    """Adds up the bytes of every tensor that an operation makes; views and in-place results cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in given:
                self.total += leaf.untyped_storage().nbytes()
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def allocated_bytes(run: Callable[[], object]) -> int:
    """Return the bytes of all tensors that ``run`` makes: no less than it ever holds at once."""
    allocations = _Allocations()
    with torch.no_grad(), allocations:
        run()
    return allocations.total
