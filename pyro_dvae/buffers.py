"""Runs of programs on trial, which leave random numbers and the buffers of modules as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from pyro_dvae.random_state import forked


class KeptBuffers:
    """Keeps the modules called in the body, in order, and restores their buffers after it."""

    def __init__(self) -> None:
        self.called: list[nn.Module] = []
        self._known: set[int] = set()
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def __enter__(self) -> KeptBuffers:
        self._handle = register_module_forward_pre_hook(self)
        return self

    def __exit__(self, *failure: object) -> None:
        self._handle.remove()
        for module, name, buffer, value in reversed(self._buffers):  # the first value of shared ones
            buffer.data.copy_(value)  # not a change for graphs made before, which hold this value
            setattr(module, name, buffer)

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        self.called.append(module)
        self.snapshot(module)

    def snapshot(self, module: nn.Module) -> None:
        for part in module.modules():
            if id(part) not in self._known:
                self._known.add(id(part))
                found = [each for each in part.named_buffers(recurse=False) if not is_lazy(each[1])]
                self._buffers += [(part, name, buffer, buffer.detach().clone()) for name, buffer in found]


@contextmanager
def on_trial() -> Iterator[None]:
    """Run the body on a forked random stream, and restore the buffers of the modules that it calls."""
    with forked(), KeptBuffers():
        yield
