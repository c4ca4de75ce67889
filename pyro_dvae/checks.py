"""Argument checks shared by every public entry point; each raises :class:`InputError` in one line."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from pyro.infer import TraceTailAdaptive_ELBO

from pyro_dvae.errors import InputError, NumberTypeError, shown

_SMALLEST, _LARGEST = 2.0**-149, float(torch.finfo(torch.float32).max)


def program(argument: str, value: Any) -> Callable[..., Any]:
    """Return ``value`` if it is callable: a model, a guide, a transform."""
    if not callable(value):
        raise InputError(f"{argument}: expected a callable, got {shown(value)}")
    return value


def pair(model: Any, guide: Any) -> None:
    """Refuse a model or a guide that cannot be called."""
    program("model", model)
    program("guide", guide)


def instance(argument: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """Return ``value`` if it is an instance of ``kind``, which a message calls ``expected``."""
    if not isinstance(value, kind):
        raise InputError(f"{argument}: expected {expected}, got {type(value).__name__}")
    return value


def text(argument: str, value: Any) -> str:
    """Return ``value`` if it is a string."""
    if not isinstance(value, str):
        raise InputError(f"{argument}: expected text, got {shown(value)}")
    return value


def module(argument: str, value: Any) -> torch.nn.Module:
    """Return ``value`` if it is a module."""
    found: torch.nn.Module = instance(argument, value, torch.nn.Module, "a torch.nn.Module")
    return found


def modules(argument: str, values: Any) -> list[torch.nn.Module]:
    """Return ``values`` as a list if it is a sequence of modules."""
    instance(argument, values, (list, tuple, torch.nn.ModuleList), "a list of torch.nn.Modules")
    return [module(argument, value) for value in values]


def elbo(argument: str, value: Any) -> Any:
    """Return ``value`` if it is an ELBO: Pyro's, this package's, or one with the same methods."""
    methods = ("differentiable_loss", "loss_and_grads")
    if isinstance(value, type) or not any(callable(getattr(value, each, None)) for each in methods):
        raise InputError(f"{argument}: expected an instance of a pyro.infer.ELBO, got {shown(value)}")
    if isinstance(value, TraceTailAdaptive_ELBO):
        raise InputError(
            f"{argument}: TraceTailAdaptive_ELBO reports an infinite loss, which stops training here; use "
            "pyro.infer.SVI, or another bound"
        )
    return value


def optional(check: Callable[[str, Any], Any], argument: str, value: Any) -> Any:
    """Return None for None, else the result of ``check``."""
    return None if value is None else check(argument, value)


def programs(argument: str, values: Any) -> tuple[Callable[..., Any], ...]:
    """Return ``values`` as a tuple if it is a sequence of callables."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | dict | torch.Tensor | type):
        raise InputError(f"{argument}: expected a sequence of callables, got {shown(values)}")
    return tuple(program(argument, value) for value in values)


def gradients() -> None:
    """Refuse a call inside torch.inference_mode, whose tensors cannot have gradients."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "torch.inference_mode is on, which forbids gradients: use torch.no_grad in its place"
        )


def flag(argument: str, value: Any) -> bool:
    """Return ``value`` as a bool if it is True or False, also NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{argument}: expected True or False, got {shown(value)}")
    return bool(value)


def progress(value: Any) -> None:
    """Refuse anything but True, False, None or a callable."""
    if not (value is None or isinstance(value, bool)):
        program("progress", value)


def nesting(argument: str, value: Any) -> float:
    """Return ``value`` if it is a number of plates, or infinity to find the number."""
    return math.inf if isinstance(value, float) and value == math.inf else count(argument, value, 0, 20)


def number(argument: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return ``value`` as a float if it is a finite number in [minimum, maximum]."""
    expected = f"{argument}: expected a number in [{minimum:g}, {maximum:g}], got {shown(value)}"
    if isinstance(value, bool):
        raise InputError(expected)
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise InputError(f"{argument}: expected a number, got a tensor whose gradient would be lost")
    try:
        result = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(expected) from None
    if not math.isfinite(result) or not minimum <= result <= maximum:
        raise InputError(expected)
    return result


def positive(argument: str, value: Any) -> float:
    """Return ``value`` as a float if it is finite and above zero."""
    result = number(argument, value)
    if result <= 0:
        raise InputError(f"{argument}: expected a number above 0, got {shown(value)}")
    return result


def scale_factor(argument: str, value: Any) -> float:
    """Return ``value`` as a float if it is a factor of a scale: above 0, at most a thousand."""
    return min(positive(argument, value), number(argument, value, maximum=1e3))


def positive_single(argument: str, value: Any) -> float:
    """Return ``value`` as a float if it is finite and above zero, also in single precision."""
    result = positive(argument, value)
    if not _SMALLEST <= result <= _LARGEST:
        raise InputError(f"{argument}: expected a number in the range of float32, got {shown(value)}")
    return result


def count(argument: str, value: Any, minimum: int = 1, maximum: int = 2**63 - 1) -> int:
    """Return ``value`` as an int if it is a whole number from ``minimum`` to ``maximum``."""
    try:
        found = operator.index(value)  # also NumPy's integers
    except (TypeError, RuntimeError):
        found = minimum - 1
    if found < minimum or isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
        raise InputError(f"{argument}: expected a whole number of at least {minimum}, got {shown(value)}")
    if found > maximum:
        raise InputError(f"{argument}: expected a whole number of at most {maximum}, got {shown(value)}")
    return found


def one_size(what: str, sizes: Mapping[str, int | None]) -> None:
    """Refuse parts that state different values of a common size.

    :param sizes: the size of each part by its argument; None if it states none.
    """
    stated = {argument: size for argument, size in sizes.items() if size is not None}
    if len(set(stated.values())) > 1:
        found = " and ".join(map(str, stated.values()))
        raise InputError(f"{', '.join(stated)}: expected one {what}, got {found}")


def known(argument: str, value: Any, names: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``names``; otherwise suggest the nearest one."""
    choices = sorted(names)
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.4) if isinstance(value, str) else []
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(f"{argument}: unknown name {shown(value)}{hint}; known: {', '.join(choices)}")


def floating(argument: str, value: Any) -> torch.Tensor:
    """Return ``value`` if it is a floating-point tensor."""
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{argument}: expected a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise NumberTypeError(f"{argument}: expected floating-point values, got {value.dtype} (try .float())")
    return value


def dense(argument: str, value: Any) -> torch.Tensor:
    """Return ``value`` if it is a dense tensor of plain numbers."""
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{argument}: expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        kind = "a nested one" if value.is_nested else value.layout
        raise InputError(f"{argument}: expected a dense tensor, got {kind}; call .to_dense()")
    if value.is_meta:
        raise InputError(f"{argument}: expected a tensor with values, got one on the device 'meta'")
    if value.is_quantized:
        raise InputError(f"{argument}: expected plain numbers, got {value.dtype}; call .dequantize()")
    if value.is_floating_point() and value.itemsize < 2:
        raise InputError(
            f"{argument}: expected numbers of 16 bits at least, got {value.dtype}; call .float()"
        )
    return value


def finite(argument: str, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` if it is a finite tensor that is not empty."""
    dense(argument, value)
    if value.numel() == 0:
        raise InputError(f"{argument}: expected at least one element, got shape {tuple(value.shape)}")
    # Minimum and maximum are NaN if any value is; this test is thirty times as fast as isfinite.
    if value.is_floating_point() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(value)):
        bad = int((~torch.isfinite(value)).sum())
        raise InputError(f"{argument}: expected finite values, got {bad} NaN or infinite of {value.numel()}")
    return value


def data(argument: str, value: Any) -> torch.Tensor:
    """Return ``value`` if it is a non-empty, dense, finite tensor of data [N, ...]."""
    if dense(argument, value).dim() == 0:
        raise InputError(f"{argument}: expected data of shape [N, ...], got a single number")
    return finite(argument, value)


def unit_interval(argument: str, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` if all elements are in [0, 1]."""
    finite(argument, value)
    low, high = float(value.min()), float(value.max())
    if low < 0 or high > 1:
        raise InputError(f"{argument}: expected values in [0, 1], got the range [{low:g}, {high:g}]")
    return value


def device(argument: str, value: Any) -> torch.device:
    """Return ``value`` as a device if it exists on this machine and has memory (not ``meta``)."""
    try:
        found = torch.device(value)
        torch.ones((), device=found).item()
    except Exception as error:  # missing backends raise various exceptions
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cause = lines[0].partition(". ")[0]  # torch adds advice for its developers
        raise InputError(
            f"{argument}: {shown(value)} cannot be used here ({cause}); use cpu (--device cpu) or auto"
        ) from None
    return found
