"""What a recorded program has taken from its surroundings: numbers and tensors that nobody passed in."""

from __future__ import annotations

import io
import operator
import pickle
import random
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine import runtime
from torch import Tensor
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pyro_dvae.engine.following import Unrecordable, is_library, is_users
from pyro_dvae.engine.observing import Observation

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_COPIED = (set, frozenset, bytearray)
_PLACES_AT_MOST = 20_000
_BYTES_AT_MOST = 1_000_000  # of one array or opaque object: all are compared before every step
_MISSING = object()
_SETTINGS = sorted(name for name in pyro.settings.get() if not name.startswith("validate"))

Read = Callable[[], Iterable[Any]]
PutBack = Callable[[int, Any], None]  # a value at a position of what was read


class Seen(NamedTuple):
    """What is in the places of a program: their values, contents of what is opaque, states of tensors."""

    values: list[Any]
    prints: list[Any]
    states: list[Any]


def same(then: Seen, now: Seen, ignored: Container[int] = ()) -> bool:
    """Whether the same is there, but for the values at some positions."""
    if then.states != now.states or then.prints != now.prints or len(then.values) != len(now.values):
        return False
    if all(map(operator.is_, then.values, now.values)):
        return True
    pairs = enumerate(zip(then.values, now.values, strict=True))
    return all(a is b or n in ignored or _brief(a) == _brief(b) for n, (a, b) in pairs)


class Surroundings:
    """The places that a program has read, or could have read by the names that its code mentions.

    They are found from the code and the objects that a run had (:mod:`pyro_dvae.engine.observing`):
    closures, globals, attributes of objects, of their classes and modules, entries of containers, arrays and
    the states of generators. :meth:`unchanged` compares them with what was there when the recording was made.
    Tensors that are changed in place need no such care: a recording reads them anew.

    :param roots: the programs, and objects given to them.
    :param observation: of a run; None where there was none yet: then all that could be found is taken.
    :raises Unrecordable: there is too much to compare.
    """

    def __init__(self, roots: Iterable[Any], observation: Observation | None) -> None:
        self._observed = observation is not None
        self._iterators = None if observation is None else observation.iterators
        self._names = None if observation is None else observation.names()
        users = [] if observation is None else observation.users()
        self._users_names = {name for code, _ in users for name in code.co_names}
        self._readers: list[tuple[Read, tuple[str, ...]]] = []
        self._writers: list[PutBack] = []
        self._opaque: list[tuple[Callable[[], Any], Any]] = []
        self._tensors: list[Tensor] = []
        self._empty: list[Any] = []
        self._note(lambda: (any(self._empty),), self._empty_again, "a container that was empty")
        self._find(list(roots), observation)
        self._ignored: set[int] = set()
        self._reads = [read for read, _ in self._readers]
        self._then = self.present()

    def present(self) -> Seen:
        """Return what is in the places now."""
        try:  # quickly, as this is done before every step
            values = list(chain.from_iterable([read() for read in self._reads]))
        except KeyError:
            values = list(chain.from_iterable(self._read()))
        return Seen(values, [take() for take, _ in self._opaque], _states(self._tensors))

    def unchanged(self) -> bool:
        """Whether all that the recorded program has read is still what it was."""
        now = self.present()
        if not same(self._then, now, self._ignored):
            return False
        self._then = now
        return True

    def settle(self) -> None:
        """Look at what runs of the program have changed since this was made: numbers are refused.

        Tensors and objects that the program replaces are left out from now on: whether it reads them shows in
        the recorded graph.

        :raises Unrecordable: the program itself changes a number, a text, a container's length, a generator.
        """
        then, now = self._then, self.present()
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
        # The state of a generator that the program leaves alone may be moved by others.
        self._opaque = [each for each in self._opaque if not isinstance(each[1], _GENERATORS)]
        self._tensors = [
            tensor for tensor, a, b in zip(self._tensors, then.states, now.states, strict=True) if a == b
        ]
        self._then = self.present()

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Put back numbers, texts, tensors and states of generators that the body replaces."""
        then = self._read()
        states = [(holder, _generator_state(holder)) for _, holder in self._opaque]
        try:
            yield
        finally:
            for before, after, write in zip(then, self._read(), self._writers, strict=True):
                for number, (a, b) in enumerate(zip(before, after, strict=False)):
                    if a is not b and (_is_value(a) or isinstance(a, Tensor)):
                        write(number, a)
            for holder, state in states:
                _set_generator_state(holder, state)

    def _note(self, read: Read, write: PutBack, *labels: str) -> None:
        self._readers.append((read, labels))
        self._writers.append(write)

    def _read(self) -> list[list[Any]]:
        """Return what every reader reads, also where an entry has been deleted."""
        found = []
        for read, _ in self._readers:
            try:
                found.append(list(read()))
            except KeyError:
                (scope,), names = read.args, read.func.__reduce__()[1]  # type: ignore[attr-defined]
                found.append([scope.get(name, _MISSING) for name in names])
        return found

    def _labels(self) -> list[str]:
        """Return the name of every place; one stands for all entries of a container."""
        return [
            labels[n] if len(labels) > 1 else labels[0]
            for (_, labels), values in zip(self._readers, self._read(), strict=True)
            for n, _ in enumerate(values)
        ]

    # Finding places

    def _find(self, roots: list[Any], observation: Observation | None) -> None:
        waiting = deque(roots)
        seen: dict[int, Any] = {}
        if observation is not None:
            waiting.extend(observation.objects.values())
            for code, scope in observation.users():
                waiting.extend(self._attributes(scope, set(code.co_names) & scope.keys(), "the global"))
        while waiting:
            holder = waiting.popleft()
            if id(holder) in seen or isinstance(holder, _PLAIN):
                continue
            seen[id(holder)] = holder
            if len(seen) > _PLACES_AT_MOST:
                if not self._observed:
                    break
                raise Unrecordable(f"the program can read more than {_PLACES_AT_MOST} objects and containers")
            waiting.extend(self._within(holder))
        self._seen = seen  # kept, so that no other object gets the identity of one of these

    def _within(self, holder: Any) -> Iterator[Any]:
        """Note the places directly in an object; return what is there."""
        kind = type(holder)
        if kind in weakref.ProxyTypes:  # first: they pass for what they stand for
            with suppress(ReferenceError):  # which is gone
                yield holder.__repr__.__self__
        elif isinstance(holder, Tensor):
            self._tensors.append(holder)
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
        elif isinstance(holder, (np.ndarray, *_GENERATORS, *_COPIED)):
            if isinstance(holder, set) and not holder:
                self._empty.append(holder)
            else:
                self._note_opaque(holder)
        elif not isinstance(holder, (Number, torch.dtype, torch.device, types.CodeType)):
            if self._iterators is not None and hasattr(kind, "__next__") and not _is_file(holder):
                if not self._iterators.left_alone(holder):
                    raise Unrecordable(
                        f"the program takes from an iterator ({kind.__name__}), which could not be put back"
                    )
                if is_library(kind.__module__):  # others may advance it: what it holds is nobody's setting
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
        """Note entries of a dictionary of names: globals or attributes."""
        present = sorted(name for name in names if name in scope)
        absent = frozenset(names) - frozenset(present)
        if present:
            present = present if len(present) > 1 else 2 * present  # as itemgetter gives no tuple of one
            self._note(
                _entries(scope, present),
                lambda n, v: _set(scope, owner, present[n], v),
                *(f"{whose} {name!r}" for name in present),
            )
        if absent:  # but may be set, in front of a class's or in place of nothing
            self._note(partial(map, absent.isdisjoint, (scope,)), _nothing, f"{whose} attributes")
        yield from (scope[name] for name in present)

    def _empty_again(self, number: int, value: int) -> None:
        for holder in self._empty:
            holder.clear()

    def _container(self, read: Read, holder: Any) -> Iterator[Any]:
        if not len(holder):
            self._empty += [] if isinstance(holder, tuple) else [holder]
            return
        values = list(read())
        self._note(read, partial(_set_entry, holder), f"an entry of a {type(holder).__name__}")
        yield from values

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        free = function.__code__.co_freevars
        for name, cell in zip(free, function.__closure__ or (), strict=True):
            self._note(
                _cell(cell),
                partial(_set_cell, cell),
                f"{name!r} in the closure of {function.__name__}",
            )
            value = next(iter(_cell(cell)()))
            if value is not _MISSING:
                yield value
        yield from (function.__defaults__, function.__kwdefaults__, function.__dict__.get("__wrapped__"))
        if not self._observed and is_users(function.__globals__):
            names = _all_names(function.__code__) & function.__globals__.keys()
            yield from self._attributes(function.__globals__, names, "the global")

    def _data_of_library(self, module: types.ModuleType) -> Iterator[Any]:
        """Note what is neither code nor a module, and named by the user's code: ``os.environ``."""
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
            names = names - set(getattr(kind, "apart_from_results", ()))  # what a class counts for itself
            yield from self._attributes(own, names, whose)
        for each in users:
            for name, value in list(each.__dict__.items()):
                if isinstance(value, types.MemberDescriptorType) and (
                    self._names is None or name in self._names
                ):
                    write = partial(_set_slot, holder, value)
                    self._note(_slot(holder, value), write, f"{whose} {name!r}")
                    yield from (found for found in _slot(holder, value)() if found is not _MISSING)

    def _note_opaque(self, holder: Any) -> None:
        take = _fingerprint(holder)
        if take is not None:
            self._opaque.append((take, holder))


_FIXED_CLASSES = ("builtins", "pyro_dvae")  # nobody changes their attributes, as nobody does torch's
_FIXED = {"__dict__", "__weakref__", "__doc__", "__module__", "__class__", "__init__", "__slots__"}


def _entries(scope: Any, names: list[str]) -> Read:
    return partial(operator.itemgetter(*names), scope)


def _set(scope: Any, owner: type | None, name: str, value: Any) -> None:
    if owner is not None:
        setattr(owner, name, value)
    else:
        scope[name] = value


def _set_cell(cell: types.CellType, number: int, value: Any) -> None:
    if value is not _MISSING:
        cell.cell_contents = value


def _set_slot(holder: Any, descriptor: Any, number: int, value: Any) -> None:
    if value is not _MISSING:
        descriptor.__set__(holder, value)


def _set_entry(holder: Any, number: int, value: Any) -> None:
    """Put back the length (the first that is read), an entry of a list, or a value of a dictionary."""
    if number == 0 and isinstance(holder, list):
        del holder[value:]
    elif number == 0 and isinstance(holder, dict):
        for key in list(holder)[value:]:
            del holder[key]
    elif isinstance(holder, (list, deque)):
        holder[number - 1] = value
    elif isinstance(holder, dict) and number > len(holder):
        holder[list(holder)[number - 1 - len(holder)]] = value


def _nothing(number: int, value: Any) -> None:
    """Leave an attribute that has appeared: it may be a cache."""


def _all_names(code: types.CodeType) -> set[str]:
    """Return the names in a function's code and in that of the functions within it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_all_names, inner))


def _generator_state(holder: Any) -> Any:
    if isinstance(holder, random.Random):
        return holder.getstate()
    if isinstance(holder, torch.Generator):
        return holder.get_state()
    if isinstance(holder, np.random.Generator):
        return holder.bit_generator.state
    return holder.get_state() if isinstance(holder, np.random.RandomState) else None


def _set_generator_state(holder: Any, state: Any) -> None:
    if isinstance(holder, random.Random):
        holder.setstate(state)
    elif isinstance(holder, np.random.Generator):
        holder.bit_generator.state = state
    elif isinstance(holder, (torch.Generator, np.random.RandomState)):
        holder.set_state(state)


def _cell(cell: types.CellType) -> Read:
    def read() -> Iterable[Any]:
        try:
            return (cell.cell_contents,)
        except ValueError:  # empty
            return (_MISSING,)

    return read


def _slot(holder: Any, descriptor: Any) -> Read:
    def read() -> Iterable[Any]:
        try:
            return (descriptor.__get__(holder),)
        except AttributeError:
            return (_MISSING,)

    return read


def _fingerprint(holder: Any) -> Callable[[], Any] | None:
    """Return a function that tells the contents of what cannot be walked, or None."""
    if isinstance(holder, np.ndarray):
        if holder.nbytes > _BYTES_AT_MOST:
            raise Unrecordable(
                f"the program can read a NumPy array of {holder.nbytes / 1e6:.0f} MB, too much to compare "
                "before every step: hold it in a tensor"
            )
        return lambda: (holder.shape, holder.dtype, hash(holder.tobytes()))
    if isinstance(holder, (set, frozenset)):
        return lambda: frozenset(holder)
    if isinstance(holder, bytearray):
        return lambda: bytes(holder)
    if isinstance(holder, torch.Generator):
        return lambda: hash(holder.get_state().numpy().tobytes())
    module = type(holder).__module__
    if is_library(module) and module not in ("itertools", "array") and not isinstance(holder, _GENERATORS):
        return None

    def take() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return hash(pickle.dumps(holder))

    try:
        take()
    except Exception:  # a lock, a file, a generator: nothing to see
        return None
    return take


def _is_part(kind: type) -> bool:
    return str(kind.__module__).startswith(("torch", "pyro"))


def _is_file(holder: Any) -> bool:
    """Whether this is a file: what is read from it shows in the second recording."""
    return isinstance(holder, io.IOBase) or holder is sys.stdin


def _is_value(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, Number)) or value is _MISSING


def _brief(value: Any) -> Any:
    if isinstance(value, (float, complex)) or (isinstance(value, Number) and not isinstance(value, int)):
        return type(value), repr(value)
    return (type(value), value) if isinstance(value, _PLAIN) else id(value)


def _shown(value: Any) -> str:
    text = "nothing" if value is _MISSING else repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _states(tensors: list[Tensor]) -> list[Any]:
    try:
        return [*zip(map(_wants_gradient, tensors), map(Tensor.data_ptr, tensors), strict=True)]
    except RuntimeError:  # sparse, lazy
        return [*zip(map(_wants_gradient, tensors), map(_memory, tensors), strict=True)]


_wants_gradient = operator.attrgetter("requires_grad")


def _memory(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return None


def outside() -> tuple[Any, ...] | str:
    """Return the settings of torch and Pyro that a step depends on; or in words why it must be ordinary."""
    if runtime._PYRO_STACK:
        kinds = ", ".join(type(handler).__name__ for handler in runtime._PYRO_STACK)
        return f"the step is taken inside Pyro's effect handlers ({kinds})"
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return "the step is taken under autocast"
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return "the step is taken without gradients"
    modes = [torch._C._get_function_stack_at(n) for n in range(torch._C._len_torch_function_stack())]
    if _get_current_dispatch_mode_stack() or not all(isinstance(mode, DeviceContext) for mode in modes):
        return "the step is taken inside a mode of torch's"
    return (
        torch.get_default_dtype(),
        tuple(str(mode.device) for mode in modes),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        *[pyro.settings.get(name) for name in _SETTINGS],
    )
