"""Ready-made models as data: the classes of this package that make them up, with their arguments."""

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
    """A part is not from this package, so the model cannot be rebuilt from data alone."""


class Description:
    """Describes parts as JSON-able values; a shared part is described once.

    ``tensors`` holds the tensors among the arguments, by name.
    """

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self._numbers: dict[int, int] = {}

    def of(self, value: Any) -> Any:
        """Return a description of a part.

        :raises ForeignPartError: it contains anything but parts of this package, numbers, strings, tensors,
            and containers of them.
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
            "class": f"{_folder(type(value).__module__)}:{type(value).__qualname__}",
            "args": [self.of(each) for each in args],
            "kwargs": {name: self.of(each) for name, each in kwargs.items()},
        }
        self._numbers[id(value)] = len(self._numbers)
        return found


class Rebuilt:
    """Makes parts from their descriptions, in the order of the descriptions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: list[Any] = []

    def of(self, description: Any) -> Any:
        """Return the part for a description.

        :raises CheckpointError: it names no part of this package, or wrong arguments.
        """
        try:
            return self._of(description)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ImportError) as error:
            raise CheckpointError(f"its model cannot be made again ({error!r})") from None

    def _of(self, description: Any) -> Any:
        if not isinstance(description, dict):
            return description
        if "tensor" in description:
            return self._tensors[description["tensor"]]
        if "list" in description:
            return tuple(self._of(each) for each in description["list"])
        if "dict" in description:
            return {self._of(key): self._of(each) for key, each in description["dict"]}
        if "shared" in description:
            return self._made[description["shared"]]
        kind = _kind(description["class"])
        args = [self._of(each) for each in description["args"]]
        made = kind(*args, **{name: self._of(each) for name, each in description["kwargs"].items()})
        self._made.append(made)
        return made


def _folder(module: str) -> str:
    """Return the folder of a module, which identifies a class, because files may change between versions."""
    return ".".join(module.split(".")[:2])


def _kind(description: str) -> type:
    module, _, name = description.partition(":")
    if module.startswith(f"{_PACKAGE}."):
        importlib.import_module(_folder(module))  # imports all classes of the folder
        waiting: list[type] = [Module, Schedule]
        while waiting:
            kind = waiting.pop()
            if kind.__qualname__ == name and _folder(kind.__module__) == _folder(module):
                return kind
            waiting += kind.__subclasses__()
    raise CheckpointError(f"its model names {description!r}, which is not part of this package")


def _made_of(part: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(part, Module):
        return part.made_of
    names = inspect.signature(type(part)).parameters  # schedules name attributes like arguments
    return (), {name: getattr(part, name) for name in names}
