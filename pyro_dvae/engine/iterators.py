"""Which iterators a run has not advanced, because advancing one cannot be undone."""

from __future__ import annotations

import gc
import warnings
import weakref
from numbers import Number
from types import FrameType, GeneratorType
from typing import Any

_DEPTH = 4  # of nested iterators


class Iterators:
    """All existing iterators, to find out which of them a run has not advanced.

    Calls show whether generators and iterators written in Python were advanced, and the state shows it for
    others. An iterator may have been advanced if neither is known, if it is newer than this object, or if the
    garbage collector does not track it (only that of a range).
    """

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._frames: dict[int, GeneratorType[Any, Any, Any]] = {}
        self._found: dict[int, Any] = {}
        self._alone: dict[int, Any] = {}
        objects = gc.get_objects()
        # Weak proxies pretend to be their targets, which are found themselves; dead ones raise.
        kinds = set(map(type, objects)) - {*weakref.ProxyTypes}
        kinds = {kind for kind in kinds if hasattr(kind, "__next__")}
        for each in objects:
            if type(each) in kinds:
                self._found[id(each)] = each
                if isinstance(each, GeneratorType) and each.gi_frame is not None:
                    self._frames[id(each.gi_frame)] = each
        self._before = self._states()

    def note(self, frame: FrameType) -> None:
        """Record the call of a frame, which may belong to an iterator."""
        holder = self._frames.get(id(frame))
        if holder is None and frame.f_code.co_name == "__next__" and frame.f_code.co_argcount:
            holder = frame.f_locals.get(frame.f_code.co_varnames[0])
        if holder is not None:
            self._calls[id(holder)] = self._calls.get(id(holder), 0) + 1

    def end(self) -> None:
        """End the run; from now on only weak references to iterators remain."""
        after = self._states()
        for key, state in self._before.items():
            if state is not None and after[key] == state:
                self._alone[key] = _reference(self._found[key])
        self._found, self._frames, self._before = {}, {}, {}

    def not_advanced(self, iterator: Any) -> bool:
        """Whether the run has certainly not advanced an iterator."""
        reference = self._alone.get(id(iterator))
        found = reference() if isinstance(reference, weakref.ref) else reference
        return found is iterator

    def _states(self) -> dict[int, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns that some iterators will not support pickling
            return {key: self._state(each, _DEPTH) for key, each in self._found.items()}

    def _state(self, value: Any, depth: int) -> Any:
        """Return a description of the state of an iterator or of a part of it; None if it is unknown."""
        kind = type(value)
        if kind in weakref.ProxyTypes:
            return id(value)
        if isinstance(value, Number):
            return kind, repr(value)
        if isinstance(value, list):
            return len(value)
        if not hasattr(kind, "__next__"):
            return id(value)
        if hasattr(kind.__next__, "__code__") or isinstance(value, GeneratorType):
            return id(value), self._calls.get(id(value), 0)
        if kind.__reduce__ is object.__reduce__ or not depth:
            return None
        try:
            reduced = value.__reduce__()
        except Exception:  # no accessible state
            return None
        parts = [part for each in reduced for part in (each if isinstance(each, tuple) else (each,))]
        states = tuple(self._state(part, depth - 1) for part in parts)
        return None if None in states else states


def _reference(holder: Any) -> Any:
    try:
        return weakref.ref(holder)
    except TypeError:  # iterators of lists and the like, which hold nothing but their container
        return holder
