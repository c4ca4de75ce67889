"""What a recorded program has taken from its surroundings: numbers and tensors that nobody passed in."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, groupby
from typing import Any

from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_AT_MOST = 2000  # places; and so many entries of one list or dictionary
_ENTRIES = 64
_OWN = ("torch", "pyro", "numpy", "builtins")  # whose functions and classes do not read a user's numbers

_Place = tuple[Any, Any]


class Surroundings:
    """The places that a model, a guide and a loss may read: closures, globals they name, attributes.

    A recording freezes what it reads there. :meth:`values` is compared between steps, so that a weight that
    is changed in an attribute, a flag, or a buffer that is replaced, is seen at the next step. Tensors that
    are changed in place need no such care. What the programs themselves change while they run (a counter of
    calls) is left out.

    :param roots: the programs and objects to start from.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._volatile: set[tuple[int, Any]] = set()
        self._places: list[_Place] = []
        self._readers: list[Callable[[], tuple[Any, ...]]] = []
        self._last: tuple[list[Any], tuple[Any, ...]] | None = None
        self.find()

    def find(self) -> None:
        """Look again for places: programs may have made or replaced modules."""
        places = _places(self._roots)
        self._places = [place for place in places if (id(place[0]), place[1]) not in self._volatile]
        self._readers = _readers(self._places)
        self._last = None

    def values(self) -> tuple[Any, ...]:
        """Return what is there now; the same tuple while nothing has been put anywhere."""
        try:
            read = list(chain.from_iterable(reader() for reader in self._readers))
        except (KeyError, IndexError, ValueError):  # gone since
            self._last = None
            return tuple(_brief(_read(place)) for place in self._places)
        if self._last is None or not all(map(operator.is_, read, self._last[0])):
            self._last = (read, tuple(_brief(value) for value in read))
        return self._last[1]

    def settle(self, before: tuple[Any, ...]) -> bool:
        """Leave out the places whose value is not that of ``before``, as a run of the programs changed it.

        Return whether there were any; then places are looked for anew, as modules may have been made.
        """
        now = self.values()
        changed = [
            (id(place[0]), place[1])
            for place, then, value in zip(self._places, before, now, strict=True)
            if then is not value and then != value
        ]
        self._volatile.update(changed)
        if changed:
            self.find()
        return bool(changed)


def _readers(places: list[_Place]) -> list[Callable[[], tuple[Any, ...]]]:
    """Return functions that read the places, in their order; those in a row of one holder together."""
    readers: list[Callable[[], tuple[Any, ...]]] = []
    for _, group in groupby(places, key=lambda place: id(place[0])):
        together = list(group)
        holder = together[0][0]
        if isinstance(holder, types.CellType):
            readers.append(lambda cell=holder: (cell.cell_contents,))  # type: ignore[misc]
        elif len(together) == 1:
            readers.append(lambda holder=holder, key=together[0][1]: (holder[key],))  # type: ignore[misc]
        else:
            readers.append(partial(operator.itemgetter(*(key for _, key in together)), holder))
    return readers


def _places(roots: tuple[Any, ...]) -> list[_Place]:
    found: list[_Place] = []
    waiting, seen = list(roots), set()
    while waiting and len(found) < _AT_MOST:
        holder = waiting.pop(0)
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for place in _within(holder):
            value = _read(place)
            if isinstance(value, (*_PLAIN, Tensor, nn.Module, types.FunctionType)):
                found.append(place)
            if not isinstance(value, (*_PLAIN, Tensor)):
                waiting.append(value)
    return found


def _within(holder: Any) -> Iterator[_Place]:
    """Return the places directly in an object that may be read by a program that has it."""
    if isinstance(holder, types.MethodType):
        yield from (((holder.__self__, holder.__func__), index) for index in range(2))
    elif isinstance(holder, types.FunctionType):
        if holder.__module__.partition(".")[0] in _OWN:
            return
        for cell in holder.__closure__ or ():
            yield cell, None
        names = holder.__code__.co_names
        yield from ((holder.__globals__, name) for name in names if name in holder.__globals__)
        rest = (holder.__defaults__, holder.__kwdefaults__, getattr(holder, "__wrapped__", None))
        yield from ((rest, index) for index in range(len(rest)))
    elif isinstance(holder, dict):
        yield from ((holder, key) for key in list(holder)[:_ENTRIES])
    elif isinstance(holder, (list, tuple)):
        yield from ((holder, index) for index in range(min(len(holder), _ENTRIES)))
    elif isinstance(holder, (type, types.ModuleType)):
        return
    elif isinstance(holder, partial):
        yield from (((holder.func, holder.args, holder.keywords), index) for index in range(3))
    elif isinstance(holder, nn.Module):
        # Of torch's own attributes only these; a user's may begin as they like, but for the underscore.
        for key in holder.__dict__:
            if not key.startswith("_") or key in ("_parameters", "_buffers", "_modules"):
                yield holder.__dict__, key
    elif type(holder).__module__.partition(".")[0] != "torch":
        own = getattr(holder, "__dict__", None)
        if isinstance(own, dict):
            yield from ((own, key) for key in list(own))


def _read(place: _Place) -> Any:
    holder, key = place
    try:
        return holder.cell_contents if isinstance(holder, types.CellType) else holder[key]
    except (ValueError, KeyError, IndexError):  # an empty cell, or gone since
        return None


def _brief(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    return id(value)
