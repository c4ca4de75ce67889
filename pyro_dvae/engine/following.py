"""Watches a recording: Pyro's losses do not read their value, and other reads of values are refused.

A recording contains operations, not values. If a program turns the value of a tensor into a Python number, a
list, an array or text, the recording would freeze it. The two modes here refuse this. They affect only this
thread.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from pyro_dvae.errors import is_users
from pyro_dvae.internals import TorchDispatchMode, schema, without_nan_check
from pyro_dvae.internals import frame as present_frame


class Unrecordable(RuntimeError):  # noqa: N818 - a statement about the program, caught by name
    """The function cannot be recorded: it reads values of tensors, or uses an operation without a graph."""


_READING = {
    Tensor.numpy: "is turned into an array",
    Tensor.__array__: "is turned into an array",
    Tensor.tolist: "is turned into a list",
    Tensor.__repr__: "is written as text",
    Tensor.__format__: "is written as text",
    Tensor.__dlpack__: "is handed to another library",
}
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_NUMBERS = ("number", "float", "Tensor")  # types of arguments that accept one; "int" is for dimensions
_RECORDERS = ("gradient.py", "record.py")  # frames below these belong to callers of the program


@dataclass(frozen=True)
class BuiltIn:
    """A Python number that a recording treats as a constant.

    :param value: the number.
    :param operation: the operation of torch that uses it.
    :param line: the line of the user's program.
    """

    value: float
    operation: str
    line: str

    def __str__(self) -> str:
        return f"{self.value:g} ({self.operation}, {self.line})"


@contextmanager
def followed(items_stay: bool = False, leaves: Sequence[Tensor] | None = None) -> Iterator[list[BuiltIn]]:
    """Refuse to read values while the body is recorded; yield the numbers that become constants.

    :param items_stay: make ``Tensor.item`` return the tensor itself and skip Pyro's check for NaN: Pyro's
        losses end in ``item``, and the recording needs the tensor.
    :param leaves: the only outside tensors that may require a gradient; None for any.
    :raises Unrecordable: the body reads a value.
    """
    operations = _Operations()
    with _Methods(items_stay, leaves), operations:
        if items_stay:
            with without_nan_check():
                yield operations.numbers
        else:
            yield operations.numbers


@contextmanager
def failing_as(kind: type[Exception]) -> Iterator[None]:
    """Raise any exception of the body as ``kind``, with the first line of its message and the user's line.

    Recorder and compiler have no error class of their own, and programs may raise anything.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        line = _line_of(error)
        raise kind(reason if reason.endswith(line) else reason + line) from error


def _line_of(error: Exception) -> str:
    """Return the last line that was reached in the user's code, or an empty text."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if is_users(frame.f_globals):
            return f" (in {_place(frame.f_code, line)})"
    return ""


def _place(code: CodeType, line: int) -> str:
    return f"{code.co_name}, {os.path.basename(code.co_filename)}:{line}"


class _Methods(TorchFunctionMode):
    """Intercepts methods that read memory without an operation: ``numpy``, ``tolist``, formatting."""

    def __init__(self, items_stay: bool, leaves: Sequence[Tensor] | None) -> None:
        super().__init__()
        self._items_stay = items_stay
        self._leaves = None if leaves is None else {id(leaf): leaf for leaf in leaves}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if get_proxy_mode() is None:  # not part of the recording
            return func(*args, **(kwargs or {}))
        if self._items_stay and func is Tensor.item:
            return args[0].detach()
        if func in _READING:
            raise Unrecordable(f"the value of a tensor {_READING[func]}, which a recording would freeze")
        if func in _FROM_NUMBERS and any(_holds_tensor(argument) for argument in args):
            raise Unrecordable("a tensor is made from a list of tensors' values; use torch.stack")
        result = func(*args, **(kwargs or {}))
        if self._leaves is not None and isinstance(result, Tensor) and result.requires_grad:
            self._require_known((*args, *(kwargs or {}).values()), result, self._leaves)
        return result

    @staticmethod
    def _require_known(arguments: Sequence[Any], result: Tensor, leaves: dict[int, Tensor]) -> None:
        """Refuse a gradient for an outside tensor that is no parameter, because later steps would drop it."""
        if result.is_leaf:  # made here
            leaves[id(result)] = result
            return
        for each in arguments:
            for tensor in each if isinstance(each, (list, tuple)) else (each,):
                outside = isinstance(tensor, Tensor) and id(tensor) not in leaves
                if outside and tensor.requires_grad and tensor.is_leaf:
                    raise Unrecordable(
                        f"a tensor of shape {tuple(tensor.shape)} that is no Pyro parameter would get a "
                        "gradient: register its module (pyro.module), or switch its requires_grad off"
                    )


def _holds_tensor(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and any(
        isinstance(each, Tensor) or _holds_tensor(each) for each in argument
    )


class _Operations(TorchDispatchMode):
    """Intercepts operations whose result is a Python value, or has a size that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[BuiltIn] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags and _sized_by_values(func, args):
            raise Unrecordable(f"the size of a result depends on values ({func})")
        self._note_numbers(func, args)
        if torch.Tag.data_dependent_output not in func.tags:
            return func(*args, **(kwargs or {}))
        try:
            return func(*args, **(kwargs or {}))  # succeeds for constants
        except RuntimeError:
            raise Unrecordable(f"the value of a tensor is read or decides something ({func})") from None

    def _note_numbers(self, func: Any, args: Any) -> None:
        for argument, value in zip(schema(func).arguments, args, strict=False):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and str(argument.type) in _NUMBERS and argument.name != "alpha":
                found = BuiltIn(value, func.overloadpacket.__name__, _present_line())
                if found.line and found not in self.numbers:
                    self.numbers.append(found)


def _present_line() -> str:
    """Return the current line of the recorded program; an empty text while gradients are computed."""
    frame: FrameType | None = present_frame(1)
    while frame is not None and os.path.basename(frame.f_code.co_filename) not in _RECORDERS:
        if is_users(frame.f_globals):
            return _place(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return ""


def _sized_by_values(func: Any, args: Any) -> bool:
    if func is not torch.ops.aten.index.Tensor:
        return True
    masks = (torch.bool, torch.uint8)
    return any(index is not None and index.dtype in masks for index in args[1])
