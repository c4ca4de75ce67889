"""A run whose values are followed: what Pyro's losses read back stays a tensor, all other reading is refused.

A recording keeps operations, not values. Where a program turns the value of a tensor into a Python number, a
list, an array or text, the value would be frozen as it is now; the two modes here refuse that at once. They
hold for this thread alone, so other threads read what they like meanwhile.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Unrecordable(RuntimeError):  # noqa: N818 - a statement about the program, caught by name
    """The function cannot be recorded: it looks at the values of its tensors, or uses what has no graph."""


_READING = {
    Tensor.numpy: "is turned into an array",
    Tensor.__array__: "is turned into an array",
    Tensor.tolist: "is turned into a list",
    Tensor.__repr__: "is written as text",
    Tensor.__format__: "is written as text",
    Tensor.__dlpack__: "is handed to another library",
}
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(str(module.__file__))) + os.sep
    for module in (torch, pyro, sys.modules["pyro_dvae"])
)
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep


@contextmanager
def followed(items_stay: bool = False) -> Iterator[None]:
    """Refuse the reading back of values while the body runs in a recording.

    :param items_stay: ``Tensor.item`` and Pyro's check of a loss for NaN are let through without reading:
        Pyro's losses end in ``item``, and the recording needs the tensor that it is called on.
    :raises Unrecordable: by the body, where it reads a value.
    """
    with _Methods(items_stay), _Operations():
        if items_stay:
            with _no_look_for_nan():
                yield
        else:
            yield


@contextmanager
def failing_as(kind: type[Exception]) -> Iterator[None]:
    """Raise whatever the body raises as ``kind``: the first line of its message, and the user's line.

    Recorder and compiler have no error class of their own: what they meet inside a program can be anything.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        line = _line_of(error)
        raise kind(reason if reason.endswith(line) else reason + line) from error


def _line_of(error: Exception) -> str:
    """Return the user's line that was reached last, of all code that is no library's, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return f" (in {frame.name}, {os.path.basename(frame.filename)}:{frame.lineno})"
    return ""


def is_users(filename: str) -> bool:
    """Whether a file holds a user's code: it is not of torch, Pyro, this package or Python."""
    own = filename.startswith((*_LIBRARIES, "<frozen"))
    return not own and not (filename.startswith(_STANDARD) and "site-packages" not in filename)


class _Methods(TorchFunctionMode):
    """Sees the methods that read memory without an operation: ``numpy``, ``tolist``, formatting."""

    def __init__(self, items_stay: bool) -> None:
        super().__init__()
        self._items_stay = items_stay

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._items_stay and func is Tensor.item:
            return args[0].detach()
        if func in _READING:
            raise Unrecordable(f"the value of a tensor {_READING[func]}, which a recording would freeze")
        if func in _FROM_NUMBERS and any(_holds_tensor(argument) for argument in args):
            raise Unrecordable("a tensor is made from a list of tensors' values; use torch.stack")
        return func(*args, **(kwargs or {}))


def _holds_tensor(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and any(
        isinstance(each, Tensor) or _holds_tensor(each) for each in argument
    )


class _Operations(TorchDispatchMode):
    """Sees the operations whose result is a Python value, or has a size that depends on values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags and _sized_by_values(func, args):
            raise Unrecordable(f"the size of a result depends on values ({func})")
        if torch.Tag.data_dependent_output not in func.tags:
            return func(*args, **(kwargs or {}))
        try:
            return func(*args, **(kwargs or {}))  # of a constant it is the constant's
        except RuntimeError:
            raise Unrecordable(f"the value of a tensor is read or decides something ({func})") from None


def _sized_by_values(func: Any, args: Any) -> bool:
    if func is not torch.ops.aten.index.Tensor:
        return True
    masks = (torch.bool, torch.uint8)
    return any(index is not None and index.dtype in masks for index in args[1])


@contextmanager
def _no_look_for_nan() -> Iterator[None]:
    """Let ``pyro.util.warn_if_nan`` find nothing, as it branches on values.

    The one change here that holds for the process: Pyro has no setting for it. Meanwhile another thread's
    losses are not looked at either.
    """
    import pyro.util as util

    before = util.torch_isnan
    util.torch_isnan = lambda value: False
    try:
        yield
    finally:
        util.torch_isnan = before
