"""A run without consequences: what it changes in place, and the random streams, are put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyro_dvae.random_state import forked
from pyro_dvae.recording.following import Unrecordable

_Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]


def _geometry(tensor: Tensor) -> _Geometry:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


class _Changes(TorchDispatchMode):
    """Keeps a copy of every tensor that an operation changes in place, as it was before."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self._geometries: dict[int, _Geometry] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        for number, argument in enumerate(func._schema.arguments):
            if _is_written(argument):
                value = args[number] if number < len(args) else named.get(argument.name)
                for tensor in value if isinstance(value, (list, tuple)) else (value,):
                    self._keep(tensor)
        return func(*args, **named)

    def _keep(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and id(tensor) not in self.before:
            with _disable_current_modes(), torch.no_grad():
                self.before[id(tensor)] = (tensor, tensor.detach().clone())
                self._geometries[id(tensor)] = _geometry(tensor)

    def undo(self) -> None:
        with torch.no_grad():
            for key, (tensor, value) in reversed(list(self.before.items())):
                if _geometry(tensor) != self._geometries[key]:  # transposed in place
                    tensor.as_strided_(*self._geometries[key])
                tensor.detach().copy_(value)


def _is_written(argument: Any) -> bool:
    # Some forms of batch normalisation write their statistics without saying so in their schema.
    written = argument.alias_info is not None and argument.alias_info.is_write
    return written or argument.name in ("running_mean", "running_var")


@contextmanager
def undone(leaves: Sequence[Tensor] = ()) -> Iterator[_Changes]:
    """Run the body apart: afterwards random streams, tensors and gradients of the leaves are as before.

    Pyro's validation is off meanwhile.
    """
    gradients = [leaf.grad for leaf in leaves]
    changes = _Changes()
    try:
        for leaf in leaves:
            leaf.grad = None
        with forked(), pyro.validation_enabled(False), changes:
            yield changes
    finally:
        changes.undo()
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient


def refusing_python_draws(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, refusing to draw from Python's or NumPy's random stream: no graph holds them."""

    def run(*given: Any) -> Any:
        before = _python_streams()
        result = function(*given)
        for name, then, now in zip(
            ("Python's random", "numpy.random"), before, _python_streams(), strict=True
        ):
            if then != now:
                raise Unrecordable(f"the program draws from {name}, which would be frozen; draw from torch")
        return result

    return run


def _python_streams() -> tuple[Any, Any]:
    return random.getstate(), repr(np.random.get_state(legacy=False))  # noqa: NPY002
