"""What a run of a program reads: seen by looking on while it runs, not by reading its source."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType
from typing import Any

from pyro_dvae.recording.following import is_library, is_users
from pyro_dvae.recording.iterators import Iterators

_IMPORTER = importlib._bootstrap._find_and_load.__code__.co_filename  # type: ignore[attr-defined]
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
    """The code that ran and the user's objects that it had in hand.

    :param codes: every code object that ran, with its globals, by its identity.
    :param objects: functions and instances of a user's classes among locals and results, by identity.
    :param iterators: those that were there before, and whether they were advanced.
    """

    codes: dict[int, tuple[CodeType, dict[str, Any]]] = field(default_factory=dict)
    objects: dict[int, Any] = field(default_factory=dict)
    iterators: Iterators = field(default_factory=Iterators)

    def users(self) -> list[tuple[CodeType, dict[str, Any]]]:
        """Return the user's code that ran, with its globals."""
        return [(code, scope) for code, scope in self.codes.values() if is_users(scope)]

    def names(self) -> frozenset[str] | None:
        """Return the names of globals and attributes that may have been read; None: any, by getattr."""
        if any(_DYNAMIC & set(code.co_names) for code, _ in self.users()):
            return None
        codes = [code for code, _ in self.codes.values()]
        names = {name for code in codes for name in code.co_names}
        # torch's modules find their parts by text: self.__dict__["_buffers"].
        return frozenset(names.union(*([c for c in code.co_consts if isinstance(c, str)] for code in codes)))


@contextmanager
def observed() -> Iterator[Observation]:
    """Look on while the body runs, in this thread; a profiler that is set goes on afterwards.

    What Python runs to import a module is left out. No garbage is collected meanwhile: what others let the
    collector call is not what the program reads.
    """
    seen = Observation()
    users: dict[int, bool] = {}
    importing = 0

    def note(frame: FrameType, event: str, result: Any) -> None:
        nonlocal importing
        code = frame.f_code
        if code.co_name == "_find_and_load" and code.co_filename == _IMPORTER:
            importing += (event == "call") - (event == "return")
        if importing:
            return
        if event == "call":
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
        if hasattr(before, "enable"):  # cProfile's, which only it can set
            before.enable()
        else:
            sys.setprofile(before)
        seen.iterators.end()


def _is_users_object(value: Any) -> bool:
    if isinstance(value, FunctionType):
        return is_users(value.__globals__)
    module = type(value).__module__
    return not is_library(module) and not module.startswith("pyro_dvae")
