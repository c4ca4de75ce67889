"""What a run trains and keeps: the unconstrained parameters, and the modules with their buffers.

One dry run of the bound shows the parameters (every Pyro ``param`` statement) and the modules (every one that
is called), wherever they live: in the param store, in ``nn.Module`` arguments, or in a function's closure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.random_state import forked


@dataclass
class Trained:
    """Leaves by name, and root modules by prefix: ``model``, ``guide``, then those first called."""

    parameters: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def buffers(self) -> dict[str, Tensor]:
        """Return the present buffers of the modules, by prefixed name, each once."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for prefix, module in self.modules.items():
            for name, buffer in module.named_buffers(prefix):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    found[name] = buffer
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors as ``parameters/NAME`` and ``buffers/NAME``."""
        tensors = {f"parameters/{name}": leaf.detach() for name, leaf in self.parameters.items()}
        return tensors | {f"buffers/{name}": buffer.detach() for name, buffer in self.buffers().items()}

    def require_same(self, saved: Mapping[str, Tensor], where: str) -> None:
        """Refuse saved tensors whose names, shapes or types are not those of the live ones."""
        live = self.tensors()
        for name in [*live, *sorted(saved.keys() - live.keys())]:
            then, now = _shown(saved.get(name)), _shown(live.get(name))
            if then != now:
                kind, _, label = name.partition("/")
                raise CheckpointError(
                    f"{where}: {kind} {label!r}: the checkpoint has {then}, this run has {now}"
                )

    def assign(self, saved: Mapping[str, Tensor]) -> None:
        """Copy saved tensors, named as by :meth:`tensors`, into the live ones, in place."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(saved[name])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put every module in evaluation mode; afterwards each is again in the mode it was in."""
        modes = {part: part.training for root in self.modules.values() for part in root.modules()}
        for root in self.modules.values():
            root.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def _shown(tensor: Tensor | None) -> str:
    if tensor is None:
        return "none"
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def modules_of(model: Any, guide: Any) -> dict[str, nn.Module]:
    """Return the modules behind a model and a guide: themselves, or what they are methods or partials of."""
    found = {"model": _module_of(model), "guide": _module_of(guide)}
    return {name: module for name, module in found.items() if module is not None}


def _module_of(target: Any) -> nn.Module | None:
    for _ in range(20):  # a wrapper of a wrapper of ...
        if isinstance(target, nn.Module):
            return target
        following = (getattr(target, name, None) for name in ("__self__", "func", "__wrapped__"))
        target = next((inner for inner in following if inner is not None), None)
    return None


def discover(model: Any, guide: Any, run: Callable[[], object], required: bool = True) -> Trained:
    """Return what ``run``, one evaluation of the bound, trains and calls.

    The random state and the buffers are afterwards as they were before. A pair without parameters is refused
    where they are ``required``.
    """
    trained = Trained(modules=modules_of(model, guide))
    recorder = _ModuleRecorder()
    for module in trained.modules.values():
        for part in module.modules():
            recorder.snapshot(part)
    capture = _ParameterCapture()
    handle = register_module_forward_pre_hook(recorder)
    try:
        with forked(), torch.enable_grad(), capture:
            run()
    finally:
        handle.remove()
        recorder.restore_buffers()
    inside = {id(part) for root in trained.modules.values() for part in root.modules()}
    for module in recorder.called:
        if id(module) not in inside:
            trained.modules[f"module{len(trained.modules)}"] = module
            inside.update(id(part) for part in module.modules())
    trained.parameters = _collect(capture.values, trained.modules)
    if required and not trained.parameters:
        raise InputError(
            "model, guide: expected parameters to train, found none (see pyro.param and pyro.module)"
        )
    return trained


def _collect(values: list[tuple[str, Tensor]], modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the leaves of the param statements, then those of the model and guide modules that had none."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    named = list(values)
    for prefix in ("model", "guide"):
        named += modules[prefix].named_parameters(prefix) if prefix in modules else []
    for name, value in named:
        leaf = unconstrained(value)
        if id(leaf) in seen or not leaf.requires_grad:
            continue
        if not leaf.is_leaf:
            raise InputError(
                f"model, guide: parameter {name!r} is computed from others, expected a leaf tensor"
            )
        seen.add(id(leaf))
        unique, copies = name, 1
        while unique in found:  # with local parameters two modules may use one name
            copies += 1
            unique = f"{name}#{copies}"
        found[unique] = leaf
    return found


def unconstrained(value: Tensor) -> Tensor:
    """Return the leaf behind the value of a param statement."""
    leaf: Tensor = value.unconstrained() if hasattr(value, "unconstrained") else value
    return leaf


class _ParameterCapture(Messenger):
    """Keeps every param statement; a trace would keep only the last of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[tuple[str, Tensor]] = []

    def _pyro_post_param(self, message: dict[str, Any]) -> None:
        if isinstance(message["value"], Tensor):
            self.values.append((message["name"], message["value"]))


class _ModuleRecorder:
    """A hook before every module call: keeps the modules in the order called, and their buffers' values."""

    def __init__(self) -> None:
        self.called: list[nn.Module] = []
        self._known: set[int] = set()
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        self.called.append(module)
        for part in module.modules():
            self.snapshot(part)

    def snapshot(self, module: nn.Module) -> None:
        if id(module) in self._known:
            return
        self._known.add(id(module))
        for name, buffer in module.named_buffers(recurse=False):
            if not is_lazy(buffer):
                self._buffers.append((module, name, buffer, buffer.detach().clone()))

    def restore_buffers(self) -> None:
        with torch.no_grad():
            for module, name, buffer, value in reversed(self._buffers):  # of two owners' values, the earlier
                buffer.copy_(value)
                module._buffers[name] = buffer
