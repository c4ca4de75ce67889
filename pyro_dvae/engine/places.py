"""The places that a program may read, found from its code and the objects of a run."""

from __future__ import annotations

import io
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.engine.following import Unrecordable
from pyro_dvae.engine.observing import Observation
from pyro_dvae.engine.reading import (
    GENERATORS,
    MISSING,
    Read,
    Write,
    cell_reader,
    entries,
    fingerprint,
    leave,
    set_cell,
    set_entry,
    set_name,
    set_slot,
    slot_reader,
)
from pyro_dvae.errors import is_library, is_users

PLAIN = (bool, int, float, complex, str, bytes, type(None))
_COPIED = (set, frozenset, bytearray)
_PLACES_AT_MOST = 20_000
_FIXED_CLASSES = ("builtins", "pyro_dvae")  # assumed not to change their attributes, like torch
_FIXED = {"__dict__", "__weakref__", "__doc__", "__module__", "__class__", "__init__", "__slots__"}


class Places:
    """All places that a program may read: closures, globals, attributes, entries of containers, arrays.

    ``readers`` and ``writers`` read and restore values, the former with names for messages. ``opaque`` holds
    functions that fingerprint objects without accessible parts. ``tensors`` are compared by their state.
    ``codes`` holds the user's code that ran.

    :param roots: the programs, and objects passed to them.
    :param observation: observation of a run; if None, all places that can be found are included.
    :raises Unrecordable: there is too much to compare.
    """

    def __init__(self, roots: Iterable[Any], observation: Observation | None) -> None:
        self._observed = observation is not None
        self._iterators = None if observation is None else observation.iterators
        self._names = None if observation is None else observation.names()
        users = [] if observation is None else observation.users()
        self.codes = {id(code): code for code, _ in users}
        self._users_names = {name for code, _ in users for name in code.co_names}
        self.readers: list[tuple[Read, tuple[str, ...]]] = []
        self.writers: list[Write] = []
        self.opaque: list[tuple[Callable[[], Any], Any]] = []
        self.tensors: list[Tensor] = []
        self._empty: list[Any] = []
        self._note(lambda: (any(self._empty),), self._clear_empty, "a container that was empty")
        self._find(list(roots), observation)

    def _note(self, read: Read, write: Write, *labels: str) -> None:
        self.readers.append((read, labels))
        self.writers.append(write)

    def _find(self, roots: list[Any], observation: Observation | None) -> None:
        waiting = deque(roots)
        seen: dict[int, Any] = {}
        if observation is not None:
            waiting.extend(observation.objects.values())
            for code, scope in observation.users():
                waiting.extend(self._attributes(scope, set(code.co_names) & scope.keys(), "the global"))
        while waiting:
            holder = waiting.popleft()
            if id(holder) in seen or isinstance(holder, PLAIN):
                continue
            seen[id(holder)] = holder
            if len(seen) > _PLACES_AT_MOST:
                if not self._observed:
                    break
                raise Unrecordable(f"the program can read more than {_PLACES_AT_MOST} objects and containers")
            waiting.extend(self._within(holder))
        self._seen = seen  # kept alive, so that no new object gets the identity of one of these

    def has_iterators(self) -> bool:
        """Whether an iterator is among the objects that the program can read."""
        kinds = set(map(type, self._seen.values())) - {*weakref.ProxyTypes}
        return any(hasattr(kind, "__next__") for kind in kinds)

    def _within(self, holder: Any) -> Iterator[Any]:
        """Record the places directly in an object; yield their contents."""
        kind = type(holder)
        if kind in weakref.ProxyTypes:  # first, because they pretend to be their targets
            with suppress(ReferenceError):  # the target is gone
                yield holder.__repr__.__self__
        elif isinstance(holder, Tensor):
            self.tensors.append(holder)
        elif isinstance(holder, types.FunctionType):
            yield from self._function(holder)
        elif isinstance(holder, types.MethodType):
            yield from (holder.__self__, holder.__func__)
        elif isinstance(holder, partial):
            yield from (holder.func, holder.args, holder.keywords)
        elif isinstance(holder, property):
            yield holder.fget
        elif isinstance(holder, (staticmethod, classmethod)):
            yield holder.__func__
        elif isinstance(holder, types.ModuleType):
            if is_library(holder.__name__):
                yield from self._data_of_library(holder)
            else:
                names = (
                    holder.__dict__.keys() if self._names is None else self._names & holder.__dict__.keys()
                )
                yield from self._attributes(holder.__dict__, names, f"{holder.__name__}'s")
        elif isinstance(holder, type):
            yield from self._class(holder)
        elif isinstance(holder, dict):
            yield from self._container(lambda: chain((len(holder),), holder, holder.values()), holder)
        elif isinstance(holder, (list, tuple, deque)):
            yield from self._container(lambda: chain((len(holder),), holder), holder)
        elif isinstance(holder, (np.ndarray, *GENERATORS, *_COPIED)):
            if isinstance(holder, set) and not holder:
                self._empty.append(holder)
            else:
                self._note_opaque(holder)
        elif not isinstance(holder, (Number, torch.dtype, torch.device, types.CodeType)):
            if self._iterators is not None and hasattr(kind, "__next__") and not _is_file(holder):
                if not self._iterators.not_advanced(holder):
                    raise Unrecordable(
                        f"the program advances an iterator ({kind.__name__}), which cannot be undone"
                    )
                if is_library(kind.__module__):  # others may advance it, and it holds no settings
                    return
            if not hasattr(holder, "__dict__"):
                self._note_opaque(holder)
            if (
                self._observed
                or not is_library(kind.__module__)
                or kind.__module__.startswith(("torch", "pyro"))
            ):
                yield from self._object(holder, kind)

    def _attributes(
        self, scope: Any, names: Iterable[str], whose: str, owner: type | None = None
    ) -> Iterator[Any]:
        """Record entries of a dictionary of names: globals or attributes."""
        present = sorted(name for name in names if name in scope)
        absent = frozenset(names) - frozenset(present)
        if present:
            present = (
                present if len(present) > 1 else 2 * present
            )  # because itemgetter returns no tuple for one name
            self._note(
                entries(scope, present),
                lambda n, v: set_name(scope, owner, present[n], v),
                *(f"{whose} {name!r}" for name in present),
            )
        if absent:  # may be set later, and then hide a class's attribute
            self._note(partial(map, absent.isdisjoint, (scope,)), leave, f"{whose} attributes")
        yield from (scope[name] for name in present)

    def _clear_empty(self, number: int, value: int) -> None:
        for holder in self._empty:
            holder.clear()

    def _container(self, read: Read, holder: Any) -> Iterator[Any]:
        if not len(holder):
            self._empty += [] if isinstance(holder, tuple) else [holder]
            return
        values = list(read())
        self._note(read, partial(set_entry, holder), f"an entry of a {type(holder).__name__}")
        yield from values

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        free = function.__code__.co_freevars
        for name, cell in zip(free, function.__closure__ or (), strict=True):
            self._note(
                cell_reader(cell),
                partial(set_cell, cell),
                f"{name!r} in the closure of {function.__name__}",
            )
            value = next(iter(cell_reader(cell)()))
            if value is not MISSING:
                yield value
        yield from (function.__defaults__, function.__kwdefaults__, function.__dict__.get("__wrapped__"))
        if not self._observed and is_users(function.__globals__):
            names = _all_names(function.__code__) & function.__globals__.keys()
            yield from self._attributes(function.__globals__, names, "the global")

    def _data_of_library(self, module: types.ModuleType) -> Iterator[Any]:
        """Record data of a library that the user's code names, such as ``os.environ``."""
        code = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
        names = self._users_names & module.__dict__.keys()
        data = [name for name in names if not isinstance(module.__dict__[name], code)]
        yield from self._attributes(module.__dict__, data, f"{module.__name__}'s")

    def _class(self, kind: type) -> Iterator[Any]:
        for each in kind.__mro__:
            if not is_library(each.__module__) and each.__module__.partition(".")[0] not in _FIXED_CLASSES:
                own = each.__dict__
                names = own.keys() - _FIXED if self._names is None else self._names & own.keys() - _FIXED
                yield from self._attributes(own, names, f"{each.__name__}'s", each)

    def _object(self, holder: Any, kind: type) -> Iterator[Any]:
        yield kind
        whose = f"{kind.__name__}'s"
        own = getattr(holder, "__dict__", None)
        users = [each for each in kind.__mro__ if not is_library(each.__module__)]
        if isinstance(own, dict):
            possible = own.keys() | {name for each in users for name in each.__dict__} - _FIXED
            names = possible if self._names is None else possible & (self._names | {"__wrapped__"})
            names = names - set(
                getattr(kind, "apart_from_results", ())
            )  # counters that do not affect results
            yield from self._attributes(own, names, whose)
        for each in users:
            for name, value in list(each.__dict__.items()):
                if isinstance(value, types.MemberDescriptorType) and (
                    self._names is None or name in self._names
                ):
                    write = partial(set_slot, holder, value)
                    self._note(slot_reader(holder, value), write, f"{whose} {name!r}")
                    yield from (found for found in slot_reader(holder, value)() if found is not MISSING)

    def _note_opaque(self, holder: Any) -> None:
        take = fingerprint(holder)
        if take is not None:
            self.opaque.append((take, holder))


def _all_names(code: types.CodeType) -> set[str]:
    """Return the names in the code of a function and of the functions within it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_all_names, inner))


def _is_file(holder: Any) -> bool:
    """Whether this is a file; the second recording detects reads from files."""
    return isinstance(holder, io.IOBase) or holder is sys.stdin
