"""The numbers and tensors that a recorded program reads besides its arguments."""

from __future__ import annotations

import hashlib
import operator
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from numbers import Number
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_dvae.engine.following import Unrecordable
from pyro_dvae.engine.observing import Observation
from pyro_dvae.engine.places import PLAIN, Places
from pyro_dvae.engine.reading import GENERATORS, MISSING, generator_state, set_generator_state
from pyro_dvae.internals import devices_of_modes, handlers, hooks, setting

_SETTINGS = [setting(name) for name in pyro.settings.get() if not name.startswith("validate")]


_BACKENDS: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]


class Snapshot(NamedTuple):
    """The contents of the places of a program: values, fingerprints of opaque objects, states of tensors."""

    values: list[Any]
    prints: list[Any]
    states: list[Any]


def same(then: Snapshot, now: Snapshot, ignored: Container[int] = ()) -> bool:
    """Whether two snapshots are equal, apart from ignored values."""
    if then.states != now.states or then.prints != now.prints or len(then.values) != len(now.values):
        return False
    pairs = enumerate(zip(then.values, now.values, strict=True))
    return all(a is b or n in ignored or _brief(a) == _brief(b) for n, (a, b) in pairs)


class Surroundings:
    """The places that a program may have read, by the names in its code.

    They are found from the code and the objects of a run (:mod:`pyro_dvae.engine.observing`): closures,
    globals, attributes of objects, of their classes and modules, entries of containers, arrays and the states
    of generators.
    :meth:`unchanged` compares them with their contents at the time of the recording. In-place changes of
    tensors are no problem, because a recording reads tensors at every run.

    :param roots: the programs, and objects given to them.
    :param observation: of a run; None where there was none yet: then all that could be found is taken.
    :param leaves: parameters, whose hooks change their gradients.
    :raises Unrecordable: there is too much to compare.
    """

    def __init__(
        self, roots: Iterable[Any], observation: Observation | None, leaves: Iterable[Tensor] = ()
    ) -> None:
        self._places = places = Places(roots, observation)
        self._readers, self._opaque, self._tensors = places.readers, places.opaque, places.tensors
        known = set(map(id, self._tensors))
        self._tensors += [leaf for leaf in leaves if id(leaf) not in known]
        self._ignored: set[int] = set()
        self._reads = [read for read, _ in self._readers]
        self._then = self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return the current contents of the places."""
        return Snapshot(
            [*chain.from_iterable(self._read())], [take() for take, _ in self._opaque], _states(self._tensors)
        )

    def fingerprint(self) -> str:
        """Return a digest of the numbers, texts and flags, which is the same in another process."""
        plain = (*PLAIN, Number)
        values = [each if isinstance(each, plain) else type(each).__name__ for each in self._then.values]
        return hashlib.sha256(repr(values).encode()).hexdigest()[:16]

    def unchanged(self) -> bool:
        """Whether everything that the recorded program has read is unchanged."""
        with suppress(KeyError):  # a fast check, because it runs before every step
            # The first value of a container is its length, so that a change of it is noticed.
            now = chain.from_iterable([read() for read in self._reads])
            if (
                all(map(operator.is_, self._then.values, now))
                and _states(self._tensors) == self._then.states
                and [take() for take, _ in self._opaque] == self._then.prints
            ):
                return True
        present = self.snapshot()
        if not same(self._then, present, self._ignored):
            return False
        self._then = present
        return True

    def refuse_changes(self) -> None:
        """Refuse changes of numbers by runs of the program since this object was made.

        Tensors and objects that the program replaces are ignored from now on; the recorded graph shows
        whether it reads them.

        :raises Unrecordable: the program changes a number, a text, a container's length or a generator.
        """
        then, now = self._then, self.snapshot()
        for (_, holder), a, b in zip(self._opaque, then.prints, now.prints, strict=True):
            if a != b:
                raise Unrecordable(f"the program itself changes an object of type {type(holder).__name__}")
        labels = self._labels()
        for number, (a, b) in enumerate(zip(then.values, now.values, strict=False)):
            if a is b or _brief(a) == _brief(b):
                continue
            if _is_value(a) or _is_value(b) or len(then.values) != len(now.values):
                raise Unrecordable(
                    f"the program itself changes {labels[number]} ({_shown(a)} became {_shown(b)}): hold it "
                    "in a tensor that is changed in place"
                )
            self._ignored.add(number)
        # Others may advance a generator that the program does not use.
        self._opaque = [each for each in self._opaque if not isinstance(each[1], GENERATORS)]
        self._tensors = [
            tensor for tensor, a, b in zip(self._tensors, then.states, now.states, strict=True) if a == b
        ]
        self._then = self.snapshot()

    def paired(self, other: Surroundings) -> dict[int, Tensor] | None:
        """Return the other program's tensors, by the identity of those in the same places of this one.

        Return None unless both ran the same code of the user's, and the same numbers, texts and arrays are in
        their places, without iterators. (A library also runs code that fills its caches.)
        """
        if other._places.has_iterators():  # their states are not compared
            return None
        mine, theirs = self._then, other._then
        labels = [[labels for _, labels in each._readers] for each in (self, other)]
        if self._places.codes.keys() != other._places.codes.keys() or labels[0] != labels[1]:
            return None
        if mine.prints != theirs.prints or len(mine.values) != len(theirs.values):
            return None
        if not all(map(_alike, mine.values, theirs.values)):
            return None
        if [*map(_kind, self._tensors)] != [*map(_kind, other._tensors)]:
            return None
        return {id(a): b for a, b in zip(self._tensors, other._tensors, strict=True)}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore numbers, texts, tensors and states of generators that the body replaces."""
        then = self._read()
        states = [(holder, generator_state(holder)) for _, holder in self._opaque]
        try:
            yield
        finally:
            for before, after, write in zip(then, self._read(), self._places.writers, strict=True):
                for number, (a, b) in enumerate(zip(before, after, strict=False)):
                    alike = a is b or (_is_value(a) and type(a) is type(b) and a == b)
                    if not alike and (_is_value(a) or isinstance(a, Tensor)):
                        write(number, a)
            for holder, state in states:
                set_generator_state(holder, state)

    def _read(self) -> list[list[Any]]:
        """Return the values of every reader, also if an entry was deleted."""
        found = []
        for read, _ in self._readers:
            try:
                found.append(list(read()))
            except KeyError:
                (scope,), names = read.args, read.func.__reduce__()[1]  # type: ignore[attr-defined]
                found.append([scope.get(name, MISSING) for name in names])
        return found

    def _labels(self) -> list[str]:
        """Return the label of every place; all entries of a container have the same label."""
        return [
            labels[n] if len(labels) > 1 else labels[0]
            for (_, labels), values in zip(self._readers, self._read(), strict=True)
            for n, _ in enumerate(values)
        ]


def _is_value(value: Any) -> bool:
    return isinstance(value, (*PLAIN, Number)) or value is MISSING


def _brief(value: Any) -> Any:
    if isinstance(value, (float, complex)) or (isinstance(value, Number) and not isinstance(value, int)):
        return type(value), repr(value)
    return (type(value), value) if isinstance(value, PLAIN) else id(value)


_FOLLOWED = (dict, list, tuple, deque, set, frozenset, bytearray, np.ndarray, Tensor, *GENERATORS)


def _alike(a: Any, b: Any) -> bool:
    """Whether two values are equal, or objects of one type whose contents are places, too."""
    if a is b or _brief(a) == _brief(b):
        return True
    if type(a) is not type(b) or _is_value(a):
        return False
    if isinstance(a, FunctionType):
        return a.__code__ is b.__code__
    if isinstance(a, MethodType):
        return a.__func__ is b.__func__
    if isinstance(a, (type, ModuleType)):
        return False
    return isinstance(a, _FOLLOWED) or hasattr(a, "__dict__") or bool(a == b)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad


def _shown(value: Any) -> str:
    text = "nothing" if value is MISSING else repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _states(tensors: list[Tensor]) -> list[Any]:
    memory: list[int | None]
    try:
        memory = [*map(Tensor.data_ptr, tensors)]
    except RuntimeError:  # sparse, lazy
        memory = [*map(_memory, tensors)]
    return [*zip(map(_wants_gradient, tensors), map(hooks, tensors), memory, strict=True)]


_wants_gradient = operator.attrgetter("requires_grad")


def _memory(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return None


def global_settings() -> tuple[Any, ...] | str:
    """Return the settings of torch and Pyro that a step depends on, or a text why it cannot be compiled."""
    if present := handlers():
        kinds = ", ".join(type(handler).__name__ for handler in present)
        return f"the step is taken inside Pyro's effect handlers ({kinds})"
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return "the step is taken under autocast"
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return "the step is taken without gradients"
    devices = devices_of_modes()
    if devices is None:
        return "the step is taken inside a mode of torch's"
    return (
        torch.get_default_dtype(),
        tuple(devices),
        torch.are_deterministic_algorithms_enabled(),
        # Not torch.get_float32_matmul_precision, which raises an error once these have been set.
        *[backend.matmul.fp32_precision for backend in _BACKENDS],
        *[read() for read in _SETTINGS],
    )
