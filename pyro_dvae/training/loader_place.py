"""Where a loader is, as a checkpoint keeps it: plain values as JSON, tensors apart."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.errors import CheckpointError, InputError

_PREFIX = "loader/"


def pack(place: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a loader's ``state_dict``, and the rest as JSON-able values; {} of None.

    :raises InputError: it holds something else than numbers, texts, bytes, tensors, and containers of them.
    """
    if place is None:
        return {}, {}
    tensors: dict[str, Tensor] = {}
    return tensors, {"loader": {"place": _plain(place, tensors)}}


def unpack(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Any:
    """Return what :func:`pack` was given; None where there was none."""
    if "loader" not in state:
        return None
    try:
        return _restored(state["loader"]["place"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the place of its loader cannot be read ({error!r})") from None


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        name = f"{_PREFIX}{len(tensors)}"
        tensors[name] = torch.as_tensor(value).detach().clone()
        return {"tensor": name, "numpy": isinstance(value, np.ndarray)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, tensors) for each in value]}
    if isinstance(value, list):
        return [_plain(each, tensors) for each in value]
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, tensors), _plain(each, tensors)] for key, each in value.items()]}
    raise InputError(f"data: the state_dict of the loader holds a {type(value).__name__}, which is not saved")


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
