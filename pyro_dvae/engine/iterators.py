"""Which iterators a run has left alone: what a program takes from an iterator cannot be put back."""

from __future__ import annotations

import gc
import warnings
import weakref
from numbers import Number
from types import FrameType, GeneratorType
from typing import Any

_DEPTH = 4  # of iterators over iterators


class Iterators:
    """The iterators that there are, to be asked after a run which of them it has not advanced.

    Generators and iterators written in Python show when they are called, others in their state. An iterator
    that shows neither, that is younger than this object, or that the garbage collector does not know (that of
    a range alone), may have been advanced.
    """

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._frames: dict[int, GeneratorType[Any, Any, Any]] = {}
        self._found: dict[int, Any] = {}
        self._alone: dict[int, Any] = {}
        objects = gc.get_objects()
        # A weak proxy passes for what it stands for, which is found itself; a dead one fails.
        kinds = set(map(type, objects)) - {*weakref.ProxyTypes}
        kinds = {kind for kind in kinds if hasattr(kind, "__next__")}
        for each in objects:
            if type(each) in kinds:
                self._found[id(each)] = each
                if isinstance(each, GeneratorType) and each.gi_frame is not None:
                    self._frames[id(each.gi_frame)] = each
        self._before = self._states()

    def note(self, frame: FrameType) -> None:
        """Note that a frame is entered, which may be that of an iterator."""
        holder = self._frames.get(id(frame))
        if holder is None and frame.f_code.co_name == "__next__" and frame.f_code.co_argcount:
            holder = frame.f_locals.get(frame.f_code.co_varnames[0])
        if holder is not None:
            self._calls[id(holder)] = self._calls.get(id(holder), 0) + 1

    def end(self) -> None:
        """Take the run as over; from now on iterators live no longer for being known here."""
        after = self._states()
        for key, state in self._before.items():
            if state is not None and after[key] == state:
                self._alone[key] = _reference(self._found[key])
        self._found, self._frames, self._before = {}, {}, {}

    def left_alone(self, iterator: Any) -> bool:
        """Whether the run has surely not advanced an iterator."""
        reference = self._alone.get(id(iterator))
        found = reference() if isinstance(reference, weakref.ref) else reference
        return found is iterator

    def _states(self) -> dict[int, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python says that some of them will not be pickled later on
            return {key: self._state(each, _DEPTH) for key, each in self._found.items()}

    def _state(self, value: Any, depth: int) -> Any:
        """Return what tells the state of an iterator, or of a part of one; None if nothing does."""
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
        except Exception:  # no state to be had
            return None
        parts = [part for each in reduced for part in (each if isinstance(each, tuple) else (each,))]
        states = tuple(self._state(part, depth - 1) for part in parts)
        return None if None in states else states


def _reference(holder: Any) -> Any:
    try:
        return weakref.ref(holder)
    except TypeError:  # a list's iterator and its like, which own nothing but what they go through
        return holder
