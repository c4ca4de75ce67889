"""Ready-made models as data: which classes of this package they were made of, with which arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.errors import CheckpointError
from pyro_dvae.levels import Schedule
from pyro_dvae.registration import Module

Tensors = dict[str, Tensor]
_PACKAGE = __name__.partition(".")[0]


class ForeignPartError(Exception):
    """A part is not of this package, so the model cannot be made from data alone."""


class Description:
    """Describes parts as JSON-able values; what is shared is described once.

    ``tensors`` are those among the arguments, by name.
    """

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self._numbers: dict[int, int] = {}

    def of(self, value: Any) -> Any:
        """Return a description of a part.

        :raises ForeignPartError: it is, or was made of, something else than parts of this package, numbers,
            texts, tensors, and containers of them.
        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            name = f"arguments/{len(self.tensors)}"
            self.tensors[name] = value.detach().cpu().clone()
            return {"tensor": name}
        if isinstance(value, list | tuple | torch.Size):
            return {"list": [self.of(each) for each in value]}
        if isinstance(value, Mapping):
            return {"dict": [[self.of(key), self.of(each)] for key, each in value.items()]}
        ours = type(value).__module__.startswith(f"{_PACKAGE}.")
        if not (ours and isinstance(value, Module | Schedule)):
            raise ForeignPartError(type(value).__name__)
        if id(value) in self._numbers:
            return {"shared": self._numbers[id(value)]}
        args, kwargs = _made_of(value)
        found = {
            "class": f"{_room(type(value).__module__)}:{type(value).__qualname__}",
            "args": [self.of(each) for each in args],
            "kwargs": {name: self.of(each) for name, each in kwargs.items()},
        }
        self._numbers[id(value)] = len(self._numbers)
        return found


class Rebuilt:
    """Makes parts from their descriptions, in the order in which they were described."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: list[Any] = []

    def of(self, told: Any) -> Any:
        """Return the part of a description.

        :raises CheckpointError: it names no part of this package, or other arguments than the part takes.
        """
        try:
            return self._of(told)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ImportError) as error:
            raise CheckpointError(f"its model cannot be made again ({error!r})") from None

    def _of(self, told: Any) -> Any:
        if not isinstance(told, dict):
            return told
        if "tensor" in told:
            return self._tensors[told["tensor"]]
        if "list" in told:
            return tuple(self._of(each) for each in told["list"])
        if "dict" in told:
            return {self._of(key): self._of(each) for key, each in told["dict"]}
        if "shared" in told:
            return self._made[told["shared"]]
        kind = _kind(told["class"])
        args = [self._of(each) for each in told["args"]]
        made = kind(*args, **{name: self._of(each) for name, each in told["kwargs"].items()})
        self._made.append(made)
        return made


def _room(module: str) -> str:
    """Return the folder of a module, by which a class is saved: its file may change between versions."""
    return ".".join(module.split(".")[:2])


def _kind(told: str) -> type:
    module, _, name = told.partition(":")
    if module.startswith(f"{_PACKAGE}."):
        importlib.import_module(_room(module))  # which imports all classes of the room
        waiting: list[type] = [Module, Schedule]
        while waiting:
            kind = waiting.pop()
            if kind.__qualname__ == name and _room(kind.__module__) == _room(module):
                return kind
            waiting += kind.__subclasses__()
    raise CheckpointError(f"its model names {told!r}, which is not part of this package")


def _made_of(part: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(part, Module):
        return part.made_of
    names = inspect.signature(type(part)).parameters  # schedules keep their arguments under their names
    return (), {name: getattr(part, name) for name in names}
