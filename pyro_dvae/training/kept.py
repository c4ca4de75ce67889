"""States of any structure in a checkpoint: plain values as JSON, tensors separately."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.errors import CheckpointError, InputError

_SHOWN = {
    "loader": "data: the state_dict of the loader",
    "update": "optimizer, schedule: the state",
    "callbacks": "callbacks: a state_dict",
}


def pack(values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of states, and the rest as JSON-able values.

    :param values: states by owner ("loader", "update", "callbacks"); None for no state.
    :raises InputError: a state holds anything but numbers, strings, bytes, tensors, and containers of them.
    """
    tensors: dict[str, Tensor] = {}
    kept = {owner: _plain(value, tensors, owner) for owner, value in values.items() if value is not None}
    return tensors, {"kept": kept}


def unpack(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument of :func:`pack`, without owners whose state is None.

    :raises CheckpointError: a state is damaged.
    """
    if "kept" not in state:
        return {"update": _of_version_0_1(tensors)}
    try:
        return {owner: _restored(value, tensors) for owner, value in state["kept"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"a state in it cannot be read ({error!r})") from None


def _of_version_0_1(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return Adam's moments from a checkpoint of version 0.1: ``optimizer/exp_avg/NAME``, ..."""
    state: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        owner, _, rest = full.partition("/")
        key, _, name = rest.partition("/")
        if owner == "optimizer":
            state.setdefault(name, {})[key] = value
    return {"optimizer": {"state": state}}


def _plain(value: Any, tensors: dict[str, Tensor], owner: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic) and isinstance(value.item(), bool | int | float | str | bytes):
        return _plain(value.item(), tensors, owner)
    if isinstance(value, Tensor | np.ndarray):
        name = f"{owner}/{len(tensors)}"
        tensors[name] = _tensor(value, owner)
        return {"tensor": name, "numpy": isinstance(value, np.ndarray)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, tensors, owner) for each in value]}
    if isinstance(value, list):
        return [_plain(each, tensors, owner) for each in value]
    if isinstance(value, Mapping):
        pairs = value.items()
        return {"dict": [[_plain(key, tensors, owner), _plain(each, tensors, owner)] for key, each in pairs]}
    raise InputError(f"{_SHOWN[owner]} holds a {type(value).__name__}, which is not saved")


def _tensor(value: Tensor | np.ndarray, owner: str) -> Tensor:
    """Return a copy of a tensor or an array of numbers."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise InputError(f"{_SHOWN[owner]} holds a sparse tensor, which is not saved")
        return value.detach().clone()
    try:
        return torch.as_tensor(value.copy())
    except (TypeError, ValueError):
        raise InputError(f"{_SHOWN[owner]} holds an array of {value.dtype}, which is not saved") from None


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        found = tensors[value["tensor"]]
        return found.numpy() if value["numpy"] else found
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    if "tuple" in value:
        return tuple(_restored(each, tensors) for each in value["tuple"])
    return {_restored(key, tensors): _restored(each, tensors) for key, each in value["dict"]}
