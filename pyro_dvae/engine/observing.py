"""Observes what a run of a program reads, and undoes what it changes."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_dvae.engine.following import Unrecordable
from pyro_dvae.engine.iterators import Iterators
from pyro_dvae.errors import is_library, is_users
from pyro_dvae.internals import IMPORTER, TorchDispatchMode, schema, without_modes
from pyro_dvae.random_state import forked

_DYNAMIC = {
    "getattr",
    "vars",
    "__dict__",
    "globals",
    "locals",
    "eval",
    "exec",
    "attrgetter",
    "__getattribute__",
}


@dataclass
class Observation:
    """The code that ran, and the user's objects among its local variables and results.

    :param codes: every code object that ran with its globals, by identity.
    :param objects: functions and instances of a user's classes among locals and results, by identity.
    :param iterators: the iterators that existed before, and whether they were advanced; None if not watched.
    """

    codes: dict[int, tuple[CodeType, dict[str, Any]]] = field(default_factory=dict)
    objects: dict[int, Any] = field(default_factory=dict)
    iterators: Iterators | None = field(default_factory=Iterators)

    def users(self) -> list[tuple[CodeType, dict[str, Any]]]:
        """Return the user's code that ran, with its globals."""
        return [(code, scope) for code, scope in self.codes.values() if is_users(scope)]

    def names(self) -> frozenset[str] | None:
        """Return the names of globals and attributes that may have been read; None means any (getattr)."""
        if any(_DYNAMIC & set(code.co_names) for code, _ in self.users()):
            return None
        codes = [code for code, _ in self.codes.values()]
        names = {name for code in codes for name in code.co_names}
        # torch's modules look up their parts by string: self.__dict__["_buffers"].
        return frozenset(names.union(*([c for c in code.co_consts if isinstance(c, str)] for code in codes)))


@contextmanager
def observed(iterators: bool = True) -> Iterator[Observation]:
    """Observe the body in this thread by a profiler; an earlier profiler continues afterwards.

    Imports are left out. Garbage collection is off meanwhile, because finalizers are not part of the program.

    :param iterators: whether to watch iterators, for which all objects of the process are looked through.
    """
    seen = Observation() if iterators else Observation(iterators=None)
    users: dict[int, bool] = {}
    importing = 0

    def note(frame: FrameType, event: str, result: Any) -> None:
        nonlocal importing
        code = frame.f_code
        if code.co_name == "_find_and_load" and code.co_filename == IMPORTER:
            importing += (event == "call") - (event == "return")
        if importing:
            return
        if event == "call":
            if seen.iterators is not None:
                seen.iterators.note(frame)
            if id(code) not in seen.codes:
                seen.codes[id(code)] = (code, frame.f_globals)
                users[id(code)] = is_users(frame.f_globals)
        elif event == "return" and users.get(id(code), False):
            for value in (*frame.f_locals.values(), result):
                if _is_users_object(value):
                    seen.objects[id(value)] = value

    before: Any = sys.getprofile()
    collecting = gc.isenabled()
    gc.disable()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        if collecting:
            gc.enable()
        if hasattr(before, "enable"):  # cProfile, which only this method can set
            before.enable()
        else:
            sys.setprofile(before)
        if seen.iterators is not None:
            seen.iterators.end()


def _is_users_object(value: Any) -> bool:
    if isinstance(value, FunctionType):
        return is_users(value.__globals__)
    module = type(value).__module__
    return not is_library(module) and not module.startswith("pyro_dvae")


_Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]


def _geometry(tensor: Tensor) -> _Geometry:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


class _Changes(TorchDispatchMode):
    """Copies every tensor before an operation changes it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self._geometries: dict[int, _Geometry] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        for number, argument in enumerate(schema(func).arguments):
            if _is_written(argument):
                value = args[number] if number < len(args) else named.get(argument.name)
                for tensor in value if isinstance(value, (list, tuple)) else (value,):
                    self._keep(tensor)
        return func(*args, **named)

    def _keep(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and id(tensor) not in self.before:
            with without_modes(), torch.no_grad():
                self.before[id(tensor)] = (tensor, tensor.detach().clone())
                self._geometries[id(tensor)] = _geometry(tensor)

    def undo(self) -> None:
        with torch.no_grad():
            for key, (tensor, value) in reversed(list(self.before.items())):
                if _geometry(tensor) != self._geometries[key]:  # transposed in place
                    tensor.as_strided_(*self._geometries[key])
                tensor.detach().copy_(value)


def _is_written(argument: Any) -> bool:
    # Some forms of batch normalisation change their statistics although their schema does not say so.
    written = argument.alias_info is not None and argument.alias_info.is_write
    return written or argument.name in ("running_mean", "running_var")


@contextmanager
def undone(leaves: Sequence[Tensor] = ()) -> Iterator[_Changes]:
    """Restore random streams, tensors, and gradients of the leaves after the body.

    Pyro's validation is off in the body.
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
    """Return ``function``, refusing draws from Python's or NumPy's random stream, which no graph contains."""

    def run(*given: Any) -> Any:
        before = _python_streams()
        result = function(*given)
        for name, then, now in zip(
            ("Python's random", "numpy.random"), before, _python_streams(), strict=True
        ):
            if then != now:
                raise Unrecordable(
                    f"the program draws from {name}, which recording would freeze; draw from torch"
                )
        return result

    return run


def _python_streams() -> tuple[Any, Any]:
    return random.getstate(), repr(np.random.get_state(legacy=False))  # noqa: NPY002
